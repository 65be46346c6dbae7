package report

import (
	"bytes"
	"encoding/xml"
	"io"
	"slices"
	"strings"
	"testing"
)

// write returns the HTML of a page.
func write(t *testing.T, p Page) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// elements parses markup strictly and returns what it holds: names of elements,
// and all text.
func elements(t *testing.T, markup string) (names map[string]int, text string) {
	t.Helper()
	names = map[string]int{}
	d := xml.NewDecoder(strings.NewReader(strings.TrimPrefix(markup, "<!DOCTYPE html>\n")))
	var all strings.Builder
	for {
		token, err := d.Token()
		if err == io.EOF {
			return names, all.String()
		}
		if err != nil {
			t.Fatalf("%v in %.2000s", err, markup)
		}
		switch e := token.(type) {
		case xml.StartElement:
			names[e.Name.Local]++
			for _, a := range e.Attr {
				if strings.HasPrefix(strings.ToLower(a.Name.Local), "on") {
					t.Errorf("an attribute %s of %s", a.Name.Local, e.Name.Local)
				}
			}
		case xml.CharData:
			all.Write(e)
		}
	}
}

// references returns what could make a browser load or run something: elements
// for that, and addresses of attributes and style sheets, but for those of files
// beside the page. Texts may name any address.
func references(t *testing.T, markup string) (found []string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(strings.TrimPrefix(markup, "<!DOCTYPE html>\n")))
	inStyle := false
	for {
		token, err := d.Token()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			name := strings.ToLower(e.Name.Local)
			inStyle = name == "style"
			switch name {
			case "link", "script", "img", "image", "iframe", "frame", "object", "embed", "base", "video", "audio", "source", "use", "foreignobject", "form":
				found = append(found, name)
			}
			for _, a := range e.Attr {
				switch key := strings.ToLower(a.Name.Local); {
				case key == "href" && strings.HasPrefix(a.Value, "./"):
				case slices.Contains([]string{"href", "src", "srcset", "action", "formaction", "data", "poster", "background", "ping"}, key),
					strings.HasPrefix(key, "on"), key == "style", name == "meta" && a.Value == "refresh",
					name != "meta" && name != "svg" && strings.Contains(a.Value, "url("):
					found = append(found, name+" "+key+"="+a.Value)
				}
			}
		case xml.CharData:
			if text := string(e); inStyle && (strings.Contains(text, "url(") || strings.Contains(text, "@import") || strings.Contains(text, "//")) {
				found = append(found, "style "+text)
			}
		case xml.EndElement:
			inStyle = false
		}
	}
}

// TestReferences finds what a page must not have, and lets texts be.
func TestReferences(t *testing.T) {
	for markup, want := range map[string]int{
		`<p>see http://example.org/ url(x) src=x</p>`:                                  0,
		`<p><a href="./x.html">x</a></p>`:                                              0,
		`<p><a href="http://example.org/">x</a><img src="x"/></p>`:                     3,
		`<p style="background:url(x)">x</p>`:                                           1,
		`<div><style>@import "x"</style><meta http-equiv="refresh"/></div>`:            2,
		`<div onclick="x()"><script>x</script><rect fill="url(http://x)"/></div>`:      3,
		`<svg xmlns="http://www.w3.org/2000/svg"><use href="#x"/><text>x</text></svg>`: 2,
	} {
		if found := references(t, markup); len(found) != want {
			t.Errorf("%s: %q, want %d", markup, found, want)
		}
	}
}

// TestPage writes everything, hostile texts included: the page is well-formed,
// has no element that a text brought along, and refers to nothing outside.
func TestPage(t *testing.T) {
	page := write(t, sample())
	names, text := elements(t, page)
	for _, bad := range []string{"script", "img", "iframe", "link", "object", "foreignObject"} {
		if names[bad] > 0 {
			t.Errorf("%d elements %s", names[bad], bad)
		}
	}
	if got := strings.Count(text, `<script>alert("x")</script>`); got < 10 {
		t.Errorf("the hostile text is readable %d times only", got)
	}
	if found := references(t, page); len(found) > 0 {
		t.Errorf("the page has %q", found)
	}
	if names["svg"] != 11 || names["table"] != 2 || names["details"] != 3 {
		t.Errorf("elements %v", names)
	}
}
