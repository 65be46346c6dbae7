package report

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode"
)

// Page is an HTML file.
type Page struct {
	Title    string
	Sections []Section
}

// Section is a part of a page: one of the types of this package.
type Section interface {
	write(p *pageWriter)
}

// Heading opens a part of a page.
type Heading string

// Text is a paragraph for each of its lines that are not empty.
type Text string

// Block is text shown as it is, with its lines and spaces: prompts, answers, logs.
type Block string

// Table has a head and rows of cells; rows may be short.
type Table struct {
	Caption string
	Head    []string
	Rows    [][]string
	// Align has a letter for each column: l, r or c. Columns beyond it are
	// aligned right if all they hold are numbers.
	Align string
}

// Chart shows a drawing, with words below it if Caption is not empty. Charts
// that follow each other stand side by side where there is room.
type Chart struct {
	Chart   interface{ SVG() string }
	Caption string
}

// Details is folded until it is opened.
type Details struct {
	Summary  string
	Open     bool
	Tags     []string // for Filters
	Sections []Section
}

// Filters lets the reader choose which Details of the page to see: all, or those
// with one of the tags. It needs no script.
type Filters struct {
	Tags []string
}

// Link leads to a file beside the page, or in a folder there.
type Link struct {
	Text, File string
}

// Links is a list of links.
type Links []Link

// Write writes the page: one file that loads nothing.
func (p Page) Write(w io.Writer) error {
	out := &pageWriter{}
	out.f(`<!DOCTYPE html>`+"\n"+`<html lang="en"><head><meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>`+
		`<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"/>`+
		`<meta name="color-scheme" content="light dark"/><title>%s</title>`+"\n<style>%s</style>", escape(p.Title), pageStyle)
	filterStyle(out, p.Sections)
	out.f("</head>\n<body><main>\n<h1>%s</h1>\n", escape(p.Title))
	out.sections(p.Sections)
	out.f("</main></body></html>\n")
	if out.err != nil {
		return fmt.Errorf("report: %w", out.err)
	}
	_, err := io.WriteString(w, out.b.String())
	return err
}

// pageWriter collects a page.
type pageWriter struct {
	b   strings.Builder
	err error
}

func (p *pageWriter) f(format string, args ...any) { fmt.Fprintf(&p.b, format, args...) }

// sections writes sections, charts in rows.
func (p *pageWriter) sections(all []Section) {
	in := false
	for _, s := range all {
		if _, chart := s.(Chart); chart != in {
			in = chart
			if in {
				p.f(`<div class="charts">`)
			} else {
				p.f("</div>\n")
			}
		}
		if s != nil {
			s.write(p)
		}
	}
	if in {
		p.f("</div>\n")
	}
}

func (h Heading) write(p *pageWriter) { p.f("<h2>%s</h2>\n", escape(string(h))) }

func (t Text) write(p *pageWriter) {
	for line := range strings.Lines(string(t)) {
		if line = strings.TrimSpace(line); line != "" {
			p.f("<p>%s</p>\n", escape(line))
		}
	}
}

func (b Block) write(p *pageWriter) {
	p.f(`<pre dir="auto" tabindex="0">%s</pre>`+"\n", "\n"+escape(string(b))) // a parser drops the first line's end
}

func (t Table) write(p *pageWriter) {
	p.f(`<div class="scroll" tabindex="0"><table>`)
	if t.Caption != "" {
		p.f("<caption>%s</caption>", escape(t.Caption))
	}
	columns := len(t.Head)
	for _, row := range t.Rows {
		columns = max(columns, len(row))
	}
	align := make([]string, columns)
	for i := range align {
		align[i] = t.align(i)
	}
	if len(t.Head) > 0 {
		p.f("<thead><tr>")
		for i := range columns {
			head := ""
			if i < len(t.Head) {
				head = t.Head[i]
			}
			p.f(`<th scope="col"%s>%s</th>`, align[i], escape(head))
		}
		p.f("</tr></thead>")
	}
	p.f("<tbody>\n")
	for _, row := range t.Rows {
		p.f("<tr>")
		for i := range columns {
			text := ""
			if i < len(row) {
				text = row[i]
			}
			class := align[i]
			if class == "" && len(text) <= shortCell {
				class = ` class="n"`
			}
			p.f("<td%s>%s</td>", class, escape(text))
		}
		p.f("</tr>\n")
	}
	if len(t.Rows) == 0 {
		p.f(`<tr><td colspan="%d">none</td></tr>`, max(columns, 1))
	}
	p.f("</tbody></table></div>\n")
}

// shortCell is the number of bytes of text that does not break in a cell: names
// with hyphens would.
const shortCell = 24

// align returns the attribute of cells in a column.
func (t *Table) align(column int) string {
	if column < len(t.Align) {
		switch t.Align[column] {
		case 'r':
			return ` class="r"`
		case 'c':
			return ` class="c"`
		}
		return ""
	}
	numbers := 0
	for _, row := range t.Rows {
		if column >= len(row) || row[column] == "" || strings.Trim(row[column], "-–") == "" {
			continue
		}
		if strings.IndexFunc(strings.TrimLeft(row[column], "+-−±<>≤≥~≈ ([$"), unicode.IsDigit) != 0 {
			return ""
		}
		numbers++
	}
	if numbers == 0 {
		return ""
	}
	return ` class="r"`
}

func (c Chart) write(p *pageWriter) {
	drawing := c.Chart.SVG()
	if err := wellFormed(drawing); err != nil {
		p.err = errors.Join(p.err, fmt.Errorf("a chart (%T): %w", c.Chart, err))
		return
	}
	p.f("<figure>%s", drawing)
	if c.Caption != "" {
		p.f("<figcaption>%s</figcaption>", escape(c.Caption))
	}
	p.f("</figure>\n")
}

// wellFormed checks that a drawing cannot spill into the page around it.
func wellFormed(drawing string) error {
	d := xml.NewDecoder(strings.NewReader(drawing))
	depth, roots := 0, 0
	for {
		token, err := d.Token()
		if err == io.EOF {
			if roots != 1 {
				return fmt.Errorf("%d elements, want one svg", roots)
			}
			return nil
		}
		if err != nil {
			return err
		}
		switch e := token.(type) {
		case xml.StartElement:
			if depth == 0 {
				roots++
				if e.Name.Local != "svg" {
					return fmt.Errorf("an element %s, want svg", e.Name.Local)
				}
			}
			switch strings.ToLower(e.Name.Local) {
			case "script", "foreignobject", "iframe", "image":
				return fmt.Errorf("an element %s, which a page does not take", e.Name.Local)
			}
			depth++
		case xml.EndElement:
			depth--
		case xml.CharData:
			if depth == 0 && strings.TrimSpace(string(e)) != "" {
				return errors.New("text around the svg element")
			}
		case xml.Directive, xml.ProcInst:
			return errors.New("a directive, want an svg element only")
		}
	}
}

func (d Details) write(p *pageWriter) {
	class, open := "", ""
	for _, t := range d.Tags {
		class += " " + tagClass(t)
	}
	if class != "" {
		class = fmt.Sprintf(` class="item%s"`, class)
	}
	if d.Open {
		open = ` open=""`
	}
	p.f("<details%s%s><summary>%s</summary>\n", class, open, escape(d.Summary))
	p.sections(d.Sections)
	p.f("</details>\n")
}

// tagClass returns the class of a tag: its letters and digits, others by number.
func tagClass(tag string) string {
	var b strings.Builder
	b.WriteString("t-")
	for _, r := range tag {
		if r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "_%x", r)
		}
	}
	return b.String()
}

func (f Filters) write(p *pageWriter) {
	p.f(`<fieldset class="filters"><legend>Show</legend><label><input type="radio" name="filter" checked=""/> all</label>`)
	for _, t := range f.Tags {
		p.f(` <label><input type="radio" name="filter" id="f%s"/> %s</label>`, tagClass(t), escape(t))
	}
	p.f("</fieldset>\n")
}

// filterStyle writes the rules that hide what the reader did not choose.
func filterStyle(p *pageWriter, all []Section) {
	for _, s := range all {
		if f, ok := s.(Filters); ok {
			p.f("<style>")
			for _, t := range f.Tags {
				p.f("body:has(#f%[1]s:checked) .item:not(.%[1]s){display:none}", tagClass(t))
			}
			p.f("</style>")
		}
	}
}

func (l Links) write(p *pageWriter) {
	p.f("<ul>")
	for _, link := range l {
		if !isLocal(link.File) {
			p.err = errors.Join(p.err, fmt.Errorf("a link to %q, want a file beside the page", link.File))
		}
		p.f(`<li><a href="./%s">%s</a></li>`, escape(pathEscape(link.File)), escape(link.Text))
	}
	p.f("</ul>\n")
}

func isLocal(file string) bool {
	return file != "" && !path.IsAbs(file) && path.Clean(file) == file && file != ".." && !strings.HasPrefix(file, "../")
}

// pathEscape writes a file's path for a link.
func pathEscape(file string) string {
	var b strings.Builder
	for _, c := range []byte(file) {
		if c < 0x80 && (unicode.IsLetter(rune(c)) || unicode.IsDigit(rune(c)) || strings.IndexByte("/-_.~", c) >= 0) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
