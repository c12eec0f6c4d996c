package bench

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// The pictures are SVG, written by hand rather than by a plotting library: their
// colours are the page's, light or dark, each shape tells its figure when pointed
// at, and bench stays free of dependencies.

const chartWidth = 860.0

// bar is a row of a bar chart.
type bar struct {
	label string
	value float64
	high  float64 // 0, or to where a thin line goes on
	class string  // kbus, floor or peer
	text  string
	head  bool // a heading instead of a bar
}

// class is the colour of a series.
func (s *series) class() string {
	switch s.System {
	case KBUS:
		return "kbus"
	case Machinery:
		return "floor"
	}
	return "peer"
}

// decades are the powers of ten around all values.
func decades(values []float64) (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if v > 0 {
			low, high = min(low, v), max(high, v)
		}
	}
	if math.IsInf(low, 0) {
		return 0, 1
	}
	low, high = math.Floor(math.Log10(low)+1e-9), math.Ceil(math.Log10(high)-1e-9)
	return low, max(high, low+1)
}

// bars draws rows on a logarithmic scale.
func bars(title string, rows []bar, unit func(float64) string) template.HTML {
	const left, right, top, row = 190.0, 150.0, 26.0, 23.0
	var values []float64
	for _, r := range rows {
		values = append(values, r.value, r.high)
	}
	low, high := decades(values)
	low -= 0.3 // such that the least has a bar
	x := func(v float64) float64 {
		return left + (math.Log10(v)-low)/(high-low)*(chartWidth-left-right)
	}
	var b strings.Builder
	height := top + row*float64(len(rows)) + 6
	svg(&b, title, height)
	for d := math.Ceil(low); d <= high; d++ {
		at := x(math.Pow(10, d))
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.0f" y2="%.0f"/><text class="tick" x="%.1f" y="14" text-anchor="middle">%s</text>`,
			at, at, top-6, height-4, at, html.EscapeString(unit(math.Pow(10, d))))
	}
	for i, r := range rows {
		y := top + row*float64(i)
		if r.head {
			fmt.Fprintf(&b, `<text class="head" x="0" y="%.1f">%s</text>`, y+15, html.EscapeString(r.label))
			continue
		}
		name := html.EscapeString(r.label)
		fmt.Fprintf(&b, `<text class="%s-name" x="%.0f" y="%.1f" text-anchor="end">%s</text>`, r.class, left-8, y+15, name)
		end := left
		if r.value > 0 {
			end = x(r.value)
			fmt.Fprintf(&b, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="15" rx="2"><title>%s: %s</title></rect>`,
				r.class, left, y+3, end-left, name, html.EscapeString(r.text))
		}
		if r.high > r.value {
			fmt.Fprintf(&b, `<path class="whisker" d="M%.1f %.1fH%.1fm0 -4v8"/>`, end, y+10.5, x(r.high))
			end = x(r.high)
		}
		fmt.Fprintf(&b, `<text class="value" x="%.1f" y="%.1f">%s</text>`, end+7, y+15, html.EscapeString(r.text))
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}

func svg(b *strings.Builder, title string, height float64) {
	fmt.Fprintf(b, `<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`, chartWidth, height, html.EscapeString(title))
}

// curve is a line of a chart of percentiles.
type curve struct {
	label  string
	class  string
	times  []float64 // at the percentiles 1 - 10^-(step*i)
	dashed bool
}

const curveStep = 0.05

// curve is nil if the series has no histogram.
func (s *series) curve() *curve {
	h := s.histogram()
	if h == nil || h.TotalCount() == 0 {
		return nil
	}
	c := &curve{label: s.label(), class: s.class(), dashed: s.class() != "peer" && s.Wait == Sleep}
	for x := 0.0; x <= math.Log10(float64(h.TotalCount()))+1e-9; x += curveStep {
		c.times = append(c.times, float64(h.ValueAtQuantile(100*(1-math.Pow(10, -x)))))
	}
	return c
}

// curves draws times over percentiles, both on logarithmic scales.
func curves(title string, lines []*curve) template.HTML {
	const left, top, height = 64.0, 10.0, 330.0
	lines = slices.DeleteFunc(lines, func(c *curve) bool { return c == nil })
	right := 170.0 // where the names are
	for _, c := range lines {
		right = max(right, 18+6.8*float64(utf8.RuneCountInString(c.label)))
	}
	var values []float64
	most := 0
	for _, c := range lines {
		values = append(values, c.times...)
		most = max(most, len(c.times)-1)
	}
	if most == 0 {
		return ""
	}
	low, high := decades(values)
	x := func(i int) float64 { return left + float64(i)/float64(most)*(chartWidth-left-right) }
	y := func(v float64) float64 {
		return top + (high-math.Log10(max(v, 1)))/(high-low)*(height-top)
	}
	var b strings.Builder
	svg(&b, title, height+40)
	for d := low; d <= high; d++ {
		at := y(math.Pow(10, d))
		fmt.Fprintf(&b, `<line class="grid" x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f"/><text class="tick" x="%.0f" y="%.1f" text-anchor="end">%s</text>`,
			left, chartWidth-right, at, at, left-6, at+4, nanos(math.Pow(10, d)))
	}
	ticks := []struct {
		at   float64
		name string
	}{{0, "0"}, {math.Log10(2), "50"}, {1, "90"}, {2, "99"}, {3, "99.9"}, {4, "99.99"}, {5, "99.999"}, {6, "99.9999"}, {7, "99.99999"}}
	for _, t := range ticks {
		i := int(math.Round(t.at / curveStep))
		if i > most {
			break
		}
		fmt.Fprintf(&b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.0f" y2="%.0f"/><text class="tick" x="%.1f" y="%.0f" text-anchor="middle">%s</text>`,
			x(i), x(i), top, height, x(i), height+16, t.name)
	}
	fmt.Fprintf(&b, `<text class="tick" x="%.0f" y="%.0f" text-anchor="middle">%% of all took no longer</text>`, left+(chartWidth-left-right)/2, height+33)
	// Names stand at the ends, moved apart.
	type name struct {
		y, at float64
		c     *curve
		color int
	}
	var names []name
	color := 0
	for _, c := range lines {
		n := name{c: c, color: -1}
		if c.class == "peer" {
			n.color = color % 8
			color++
		}
		n.y = y(c.times[len(c.times)-1])
		n.at = n.y
		names = append(names, n)
	}
	slices.SortStableFunc(names, func(a, b name) int { return int(math.Copysign(1, a.y-b.y)) })
	const apart = 14.0
	for i := range names {
		names[i].at = max(names[i].at, top+8)
		if i > 0 {
			names[i].at = max(names[i].at, names[i-1].at+apart)
		}
	}
	for i := len(names) - 1; i >= 0; i-- {
		limit := height
		if i < len(names)-1 {
			limit = names[i+1].at - apart
		}
		names[i].at = min(names[i].at, limit)
	}
	for _, n := range names {
		class := n.c.class
		if n.color >= 0 {
			class = fmt.Sprintf("peer c%d", n.color)
		}
		if n.c.dashed {
			class += " dashed"
		}
		var path strings.Builder
		for i, v := range n.c.times {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(i, 1)], x(i), y(v))
		}
		label := html.EscapeString(n.c.label)
		end := x(len(n.c.times) - 1)
		fmt.Fprintf(&b, `<path class="curve %s" d="%s"><title>%s</title></path>`, class, &path, label)
		fmt.Fprintf(&b, `<path class="lead" d="M%.1f %.1fL%.1f %.1f"/><text class="curve-name %s" x="%.1f" y="%.1f">%s</text>`,
			end, n.y, chartWidth-right+8, n.at, class, chartWidth-right+11, n.at+4, label)
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}
