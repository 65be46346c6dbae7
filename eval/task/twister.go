package task

import "math/bits"

// twister is the generator of Python's random module: MT19937 (Matsumoto and
// Nishimura, 1998), seeded by init_by_array with the one word of a small seed.
type twister struct {
	state [624]uint32
	at    int
}

func newTwister(seed uint32) *twister {
	t := &twister{at: 624}
	s := &t.state
	s[0] = 19650218
	for i := 1; i < 624; i++ {
		s[i] = 1812433253*(s[i-1]^s[i-1]>>30) + uint32(i)
	}
	i := 1
	for range 624 {
		s[i] = (s[i] ^ (s[i-1]^s[i-1]>>30)*1664525) + seed // the key has one word, so its index is 0
		if i++; i == 624 {
			s[0], i = s[623], 1
		}
	}
	for range 623 {
		s[i] = (s[i] ^ (s[i-1]^s[i-1]>>30)*1566083941) - uint32(i)
		if i++; i == 624 {
			s[0], i = s[623], 1
		}
	}
	s[0] = 1 << 31
	return t
}

func (t *twister) uint32() uint32 {
	s := &t.state
	if t.at == 624 {
		for i := range s {
			y := s[i]&(1<<31) | s[(i+1)%624]&(1<<31-1)
			s[i] = s[(i+397)%624] ^ y>>1 ^ -(y&1)&0x9908b0df
		}
		t.at = 0
	}
	y := s[t.at]
	t.at++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}

// below is Python's randbelow: as many bits as n has, drawn until below n.
func (t *twister) below(n int) int {
	for {
		if v := int(t.uint32() >> (32 - bits.Len(uint(n)))); v < n {
			return v
		}
	}
}

// sample4 is Python's sample(range(4), 4).
func (t *twister) sample4() []int {
	pool, out := [4]int{0, 1, 2, 3}, make([]int, 4)
	for i := range out {
		j := t.below(4 - i)
		out[i] = pool[j]
		pool[j] = pool[3-i]
	}
	return out
}
