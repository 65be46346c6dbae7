package server

import (
	"fmt"
	"net/http"
)

// model describes the model under one of its names.
type modelInfo struct {
	ID         string  `json:"id"`
	Object     string  `json:"object"`
	Created    int64   `json:"created"`
	OwnedBy    string  `json:"owned_by"`
	Root       string  `json:"root"`
	Parent     *string `json:"parent"`
	MaxContext int     `json:"max_model_len"`
}

func (s *Server) modelInfo(name string) modelInfo {
	e := s.engine()
	root := e.Options().Model
	if root == "" {
		root = e.Name()
	}
	return modelInfo{
		ID: name, Object: "model", Created: s.started.Unix(), OwnedBy: "latent", Root: root, MaxContext: e.MaxContext(),
	}
}

// handleModels answers GET /v1/models.
func (s *Server) handleModels(x *exchange) {
	if why, _ := s.health(); why != nil {
		x.fail(why)
		return
	}
	data := make([]modelInfo, len(s.names))
	for i, name := range s.names {
		data[i] = s.modelInfo(name)
	}
	x.writeJSON(http.StatusOK, map[string]any{"object": "list", "data": data})
}

// handleModel answers GET /v1/models/{id}.
func (s *Server) handleModel(x *exchange) {
	if why, _ := s.health(); why != nil {
		x.fail(why)
		return
	}
	id := x.r.PathValue("id")
	if !s.serves(id) {
		x.fail(s.modelNotFound(id))
		return
	}
	x.writeJSON(http.StatusOK, s.modelInfo(id))
}

func (s *Server) modelNotFound(name string) *failure {
	return &failure{
		status: http.StatusNotFound, kind: kindInvalid, code: "model_not_found", param: "model",
		message: fmt.Sprintf("there is no model %q here; want %q", headerText(name), s.names[0]),
	}
}
