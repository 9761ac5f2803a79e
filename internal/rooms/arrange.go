package main

import "slices"

// arrange puts files into an order with few upward references. Finding the fewest takes too
// long in general, so this is a heuristic: first, files that no remaining file uses go to
// the top, and files that use none to the bottom; among the others, the file with the most
// uses minus users goes next to the top (Eades, Lin, Smyth 1993). Then single files move to
// their best places, until no move helps. The same package always gets the same order.
func (h *house) arrange(files []string) []string {
	uses := map[string]map[string]bool{}
	for _, name := range files {
		uses[name] = map[string]bool{}
	}
	for r := range h.references {
		uses[r.from][r.to] = true
	}
	return improve(greedy(files, uses), uses)
}

func greedy(files []string, uses map[string]map[string]bool) []string {
	left := slices.Clone(files)
	degrees := func(name string) (out, in int) {
		for _, other := range left {
			if uses[name][other] {
				out++
			}
			if uses[other][name] {
				in++
			}
		}
		return out, in
	}
	var top, bottom []string
	for len(left) > 0 {
		next, down, most := 0, false, 0
		for i, name := range left {
			out, in := degrees(name)
			if out == 0 {
				next, down = i, true
				break
			}
			gain := out - in
			if in == 0 {
				gain += len(files)
			}
			if i == 0 || gain > most {
				next, most = i, gain
			}
		}
		if down {
			bottom = append(bottom, left[next])
		} else {
			top = append(top, left[next])
		}
		left = slices.Delete(left, next, next+1)
	}
	slices.Reverse(bottom)
	return append(top, bottom...)
}

// improve moves single files while that reduces the upward references.
func improve(order []string, uses map[string]map[string]bool) []string {
	for moved := true; moved; {
		moved = false
		for i := 0; i < len(order); i++ {
			if to := bestPlace(order, i, uses); to != i {
				name := order[i]
				order = slices.Insert(slices.Delete(order, i, i+1), to, name)
				moved = true
			}
		}
	}
	return order
}

// bestPlace returns where the file at i causes the fewest upward references, i if no place
// is better.
func bestPlace(order []string, i int, uses map[string]map[string]bool) int {
	best, least := i, 0
	// change is how many upward references are added once the file has passed another one.
	step := func(change *int, other string, down bool) {
		out, in := uses[order[i]][other], uses[other][order[i]]
		if down {
			out, in = in, out
		}
		if in {
			*change++
		}
		if out {
			*change--
		}
	}
	for j, change := i-1, 0; j >= 0; j-- {
		if step(&change, order[j], false); change < least {
			best, least = j, change
		}
	}
	for j, change := i+1, 0; j < len(order); j++ {
		if step(&change, order[j], true); change < least {
			best, least = j, change
		}
	}
	return best
}
