package pathway

// Residual tells how well a fit explains the samples of one operation: relative
// errors of prediction, root mean square and largest.
type Residual struct {
	Operation string  `json:"operation"`
	Samples   int     `json:"samples"`
	RMS       float64 `json:"rms_relative"`
	Worst     float64 `json:"worst_relative"`
}
