// Package report draws charts and writes them, with tables and text, into one
// HTML file or into SVG files that stand alone.
//
//	Page.Write     a page of sections: Heading, Text, Table, Chart, Details, Block, Filters, Links
//	Lines, Scatter, Bars, Histogram, ECDF, Heatmap
//	               charts, each with SVG; Lines and Scatter also with Text, for a terminal
//
// Pages load nothing, run no script, and follow the reader's choice of light or
// dark. They are read on a screen 400 pixels wide as on one of 1400, and in
// grey: series differ by dashes, markers and labels, not by colour alone. Every
// text is escaped, so answers of a model and names from a server can be shown as
// they came. What cannot be drawn (NaN, infinities, zero on a logarithmic axis)
// is left out and counted on the chart.
//
// What this package is not: it knows nothing of what it shows, and computes no
// statistics beyond the bins of a histogram and the ranks of an ECDF. It imports
// nothing but the standard library.
package report
