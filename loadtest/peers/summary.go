package peers

import "slices"

// A spread is what is told of some figures.
type spread struct{ median, lowest, highest float64 }

func summary(of []float64) spread {
	if len(of) == 0 {
		return spread{}
	}
	return spread{Median(of), slices.Min(of), slices.Max(of)}
}

// Median of some figures, 0 of none.
func Median(of []float64) float64 {
	s := slices.Sorted(slices.Values(of))
	switch n := len(s); {
	case n == 0:
		return 0
	case n%2 == 0:
		return (s[n/2-1] + s[n/2]) / 2
	default:
		return s[n/2]
	}
}

// ratios divides round by round, so that each ratio is of one moment.
func ratios(of, by []float64) (all []float64) {
	for i := range min(len(of), len(by)) {
		if by[i] > 0 {
			all = append(all, of[i]/by[i])
		}
	}
	return all
}
