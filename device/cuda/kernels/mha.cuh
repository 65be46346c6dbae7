// What both kernels of multi-head attention over expanded keys share: their
// blocks of rows and the reading of a selection mask.
#pragma once

// MhaBlock is a block of consecutive query rows of one run, as mha.go lists
// them. Row i of the block is row row+i of the step, stands at position pos+i
// and sees the keys at positions [from, min(to, pos+i+1)), of which position
// from is key number keys of the expansion. sel is the block's first row in the
// selection mask or -1.
struct MhaBlock {
  i32 row, rows, pos, from, to, keys, sel, pad;
};

// A selection mask is u32 [rows][tiles of 128 keys][4]: bit 2i+b of word t of
// tile j is the key at position 128j + 8i + 2t + b, which is the order of the
// accumulators of a matrix product in the thread with lane%4 = t.
static constexpr int MASK_KEYS = 128, MASK_WORDS = 4;
