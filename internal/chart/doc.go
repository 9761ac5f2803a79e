// Package chart draws diagrams as SVG, for people. It knows nothing of what they show.
//
//	puts := chart.Line{Name: "puts", Color: chart.Blue}
//	puts.Add(1, 5000) // after a second
//	…
//	lines := &chart.Lines{Title: "Answers per second", Lines: []chart.Line{puts}, XTitle: "seconds"}
//	lines.Scale()
//	err := chart.Write(w, "Puts", "256 connections", lines, &chart.Bars{…})
//
// # Invariants
//
//  1. Whatever the texts and values are, the output is well-formed XML.
//  2. Bars and lines of values that are not negative lie inside the picture.
//
// # Caveats
//
// A text that is too long is cut off by the edge of the picture, or overlaps its neighbour:
// nothing here measures fonts.
package chart
