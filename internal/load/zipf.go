package load

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// Zipf draws ranks 0 to n-1 such that rank k has a probability proportional to 1/(k+1)^theta.
// It is exact, for any theta above 0, and takes constant time and memory, by
// rejection-inversion: W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates
// from monotone discrete distributions", 1996. (math/rand's Zipf needs theta above 1; YCSB's,
// after Gray, is inexact and sums n terms first.)
//
// The hat over the probabilities is the density x^-theta. Its integral H and the inverse of H
// are known, so one random number gives a point under the hat; it is rejected if it lies above
// the bar of its rank.
//
// It is immutable and may be shared.
type Zipf struct {
	n, theta    float64
	first, last float64 // H at the ends of the hat
	acceptBelow float64 // this near below a rank, no bar has to be computed
}

// NewZipf returns an error unless n and theta are above 0.
func NewZipf(n uint64, theta float64) (*Zipf, error) {
	if n == 0 || !(theta > 0) || math.IsInf(theta, 1) {
		return nil, fmt.Errorf("a Zipf distribution of %d keys with theta %v does not exist; both must be above 0", n, theta)
	}
	z := &Zipf{n: float64(n), theta: theta}
	z.first = z.integral(1.5) - 1
	z.last = z.integral(z.n + 0.5)
	z.acceptBelow = 2 - z.inverse(z.integral(2.5)-z.density(2))
	return z, nil
}

// Next draws a rank.
func (z *Zipf) Next(random *rand.Rand) uint64 {
	for {
		u := z.last + random.Float64()*(z.first-z.last)
		x := z.inverse(u)
		k := min(max(math.Floor(x+0.5), 1), z.n)
		if k-x <= z.acceptBelow || u >= z.integral(k+0.5)-z.density(k) {
			return uint64(k) - 1
		}
	}
}

func (z *Zipf) density(x float64) float64 { return math.Exp(-z.theta * math.Log(x)) }

// integral returns (x^(1-theta) - 1) / (1-theta), or log x where theta is 1, without a jump
// between them.
func (z *Zipf) integral(x float64) float64 {
	log := math.Log(x)
	return log * quotient(math.Expm1, (1-z.theta)*log)
}

func (z *Zipf) inverse(y float64) float64 {
	t := max(y*(1-z.theta), -1) // rounding may have gone below
	return math.Exp(y * quotient(math.Log1p, t))
}

// quotient returns f(x)/x for an f that is nearly x near 0.
func quotient(f func(float64) float64, x float64) float64 {
	if math.Abs(x) < 1e-12 {
		return 1
	}
	return f(x) / x
}
