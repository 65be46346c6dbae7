package report

import (
	"bytes"
	"encoding/xml"
	"io"
	"regexp"
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

// address matches what could make a browser load something, but for the name of
// SVG's namespace.
var address = regexp.MustCompile(`(?i)[a-z]+://[^\s"'<>)]*|url\(|@import|<link|<script|<img|<iframe|<object|<embed`)

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
	for _, found := range address.FindAllString(page, -1) {
		if found != "http://www.w3.org/2000/svg" {
			t.Errorf("the page refers to %q", found)
		}
	}
	if names["svg"] != 11 || names["table"] != 2 || names["details"] != 3 {
		t.Errorf("elements %v", names)
	}
}
