package devicetest

import "math"

// attention is the result of one query row and head: the output, the natural
// logarithm of the sum of exponentials of its scaled scores, and the sizes of
// the terms both are made of.
type attention struct {
	out, outMag []float64
	lse, lseMag float64
}

// expanded is what one head sees of one position: key [dn+dr], value [dv], and
// the sizes of their terms.
type expanded struct{ k, kMag, v, vMag []float64 }

// specExpand computes the key [W_K·c | rope] and the value W_V·c of head h, for
// kvb [H·(dn+dv), R].
func specExpand(kvb matrix, h, dn, dv int, r record) expanded {
	rows := matrix{dn + dv, kvb.cols, kvb.w[h*(dn+dv)*kvb.cols : (h+1)*(dn+dv)*kvb.cols]}
	y, mag := rows.apply(r.c)
	return expanded{
		k:    append(y[:dn:dn], r.rope...),
		kMag: append(mag[:dn:dn], magnitudes(r.rope)...),
		v:    y[dn:],
		vMag: mag[dn:],
	}
}

// specAttention computes softmax(scale·q·kᵀ)·v over keys. Without keys the
// output is zero and the log-sum-exp −∞.
func specAttention(q []float64, keys []expanded, width int, scale float64) attention {
	a := attention{out: make([]float64, width), outMag: make([]float64, width), lse: math.Inf(-1)}
	if len(keys) == 0 {
		return a
	}
	scores := make([]float64, len(keys))
	top, size := math.Inf(-1), 0.0
	for s, key := range keys {
		var dot, squares float64
		for i := range q {
			dot += q[i] * key.k[i]
			squares += q[i] * key.kMag[i] * q[i] * key.kMag[i]
		}
		scores[s] = scale * dot
		top, size = max(top, scores[s]), max(size, scale*math.Sqrt(squares))
	}
	var sum float64
	for _, x := range scores {
		sum += math.Exp(x - top)
	}
	a.lse, a.lseMag = top+math.Log(sum), 1+size
	for s, key := range keys {
		p := math.Exp(scores[s] - a.lse)
		for i := range a.out {
			a.out[i] += p * key.v[i]
			// A relative error of a probability is an absolute error of its score.
			a.outMag[i] = max(a.outMag[i], key.vMag[i]*(1+size))
		}
	}
	return a
}

// latentKeys presents records as the one head that absorbed attention sees:
// keys (c, rope), values c.
func latentKeys(records []record) []expanded {
	keys := make([]expanded, len(records))
	for i, r := range records {
		k := append(r.c[:len(r.c):len(r.c)], r.rope...)
		keys[i] = expanded{k: k, kMag: magnitudes(k), v: r.c, vMag: magnitudes(r.c)}
	}
	return keys
}

// specAbsorb computes (W_Kᵀ·q_nope, q_rope) of head h for q [dn+dr].
func specAbsorb(kvb matrix, h, dn, dv int, q []float64) (y, mag []float64) {
	y, mag = make([]float64, kvb.cols), make([]float64, kvb.cols)
	for i := range dn {
		for j, w := range kvb.row(h*(dn+dv) + i) {
			y[j] += w * q[i]
			mag[j] += w * q[i] * w * q[i]
		}
	}
	for j := range mag {
		mag[j] = math.Sqrt(mag[j])
	}
	return append(y, q[dn:]...), append(mag, magnitudes(q[dn:])...)
}

// specUnabsorb computes W_V·z of head h.
func specUnabsorb(kvb matrix, h, dn, dv int, z []float64) (y, mag []float64) {
	from := h*(dn+dv) + dn
	return matrix{dv, kvb.cols, kvb.w[from*kvb.cols : (from+dv)*kvb.cols]}.apply(z)
}

// specMerge joins the attentions a and b over disjoint keys, each weighted by
// its share of the sum of exponentials.
func specMerge(a, b []float64, lseA, lseB float64) (out []float64, lse float64) {
	out = make([]float64, len(a))
	top := max(lseA, lseB)
	if math.IsInf(top, -1) {
		return out, top
	}
	wa, wb := math.Exp(lseA-top), math.Exp(lseB-top)
	for i := range out {
		out[i] = (wa*a[i] + wb*b[i]) / (wa + wb)
	}
	return out, top + math.Log(wa+wb)
}
