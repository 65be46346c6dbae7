package task

import (
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Numbers in prose are read by these rules, which docs/evaluating.md repeats:
//
//   - A sign counts where it touches the number or its currency sign and no
//     letter, digit, sign or closing bracket stands before it: "-3" and "-$3" are
//     negative, "5-3" is 5 and 3. The Unicode minus is a minus.
//   - Commas and narrow or no-break spaces group thousands, exactly three digits
//     each; any other comma separates numbers. LaTeX's {,} and \, are the same.
//   - A point with a digit behind it is a decimal point; ".5" is 0.5.
//   - "1.5e3" is 1500. Powers ("10^3") and products ("1.5 x 10^3") are not
//     evaluated, and exponents and indices ("m^2", "x_1") are not numbers.
//   - "3/4", \frac{3}{4} and "2 1/2" are fractions; "1/2/2026" is three numbers.
//   - Currency, percent signs and units are left out of the value.
//   - Digits behind a letter ("H2O", "x1") are part of a word, unless the letters
//     are a currency ("USD18").
//
// maxDigits bounds what is taken for a number, and maxExponent its exponent.
const (
	maxDigits   = 500
	maxExponent = 100
)

// number is one number of a text.
type number struct {
	value      *big.Rat
	start, end int // runes of the normalised text
}

var (
	fracMarkup = regexp.MustCompile(`\\[dt]?frac\s*\{\s*(\d{1,9})\s*\}\s*\{\s*(\d{1,9})\s*\}`)
	// plainer writes signs, digits and separators in one way.
	plainer = strings.NewReplacer(
		"\u2212", "-", "\ufe63", "-", "\uff0d", "-",
		"{,}", ",", `,\!`, ",", `\,`, "\u2009", `\$`, "$", `\%`, "%",
		"½", " 1/2", "¼", " 1/4", "¾", " 3/4",
		"０", "0", "１", "1", "２", "2", "３", "3", "４", "4", "５", "5", "６", "6", "７", "7", "８", "8", "９", "9", "，", ",",
	)
	currencyCodes = []string{"USD", "US", "EUR", "GBP", "INR", "JPY", "CHF", "AUD", "CAD", "Rs", "rs", "A", "C", "NZ", "HK"}
)

func isDigit(c rune) bool { return '0' <= c && c <= '9' }

func isCurrency(c rune) bool { return unicode.Is(unicode.Sc, c) }

// numbers returns the numbers of a text from left to right.
func numbers(text string) []number {
	text = plainer.Replace(text)
	if strings.Contains(text, "frac") {
		text = fracMarkup.ReplaceAllString(text, " $1/$2")
	}
	s := []rune(text)
	at := func(i int) rune {
		if i < 0 || i >= len(s) {
			return ' '
		}
		return s[i]
	}
	var found []number
	for i := 0; i < len(s); {
		if !isDigit(s[i]) && !(s[i] == '.' && isDigit(at(i+1)) && !isDigit(at(i-1)) && !unicode.IsLetter(at(i-1))) {
			i++
			continue
		}
		start := i
		negative, ok := before(s, start)
		digits, end := scanDecimal(s, start)
		i = end
		if !ok || len(digits) > maxDigits {
			continue
		}
		value, _ := new(big.Rat).SetString(digits)
		whole := !strings.Contains(digits, ".")
		if exponent, stop := scanExponent(s, end); stop > end {
			value.Mul(value, power10(exponent))
			whole, i = false, stop
		}
		if whole && at(i) == '/' && isDigit(at(i+1)) && at(start-1) != '/' {
			stop := i + 1
			for isDigit(at(stop)) {
				stop++
			}
			below, _ := new(big.Int).SetString(string(s[i+1:stop]), 10)
			date := at(stop) == '/' && isDigit(at(stop+1))
			if below.Sign() != 0 && stop-i <= maxDigits && !date && (at(stop) != '.' || !isDigit(at(stop+1))) {
				value.Quo(value, new(big.Rat).SetInt(below))
				i = stop
				// A whole number and a proper fraction after one space are one number.
				if n := len(found); n > 0 && at(start-1) == ' ' && found[n-1].end == start-1 &&
					found[n-1].value.IsInt() && value.Cmp(big.NewRat(1, 1)) < 0 && isDigit(s[start-2]) {
					last := &found[n-1]
					if signed(s, last.start) {
						value.Neg(value)
					}
					last.value.Add(last.value, value)
					last.end = i
					continue
				}
			}
		}
		if negative {
			value.Neg(value)
		}
		found = append(found, number{value, start, i})
	}
	return found
}

func signed(s []rune, start int) bool {
	negative, _ := before(s, start)
	return negative
}

// before looks at what stands to the left of a number: whether it is negative,
// and whether it is a number at all and not the end of a word or an index.
func before(s []rune, start int) (negative, ok bool) {
	i := start - 1
	at := func() rune {
		if i < 0 {
			return ' '
		}
		return s[i]
	}
	// Exponents and indices: ^2, ^{-2}, _1, _{12}; "_18_" is emphasis.
	j := i
	if j >= 0 && s[j] == '-' {
		j--
	}
	braced := j >= 0 && s[j] == '{'
	if braced {
		j--
	}
	if j >= 0 && s[j] == '^' {
		return false, false
	}
	if j >= 0 && s[j] == '_' && (braced || j > 0 && (unicode.IsLetter(s[j-1]) || isDigit(s[j-1]))) {
		return false, false
	}
	// The currency: a sign with spaces behind it, a code, or both ("US$ 18").
	j = i
	for at() == ' ' {
		i--
		if i < 0 {
			return false, true
		}
	}
	if isCurrency(at()) {
		i--
	} else {
		i = j
	}
	end := i
	for unicode.IsLetter(at()) {
		i--
		if end-i > 4 {
			break
		}
	}
	if end > i && !slices.Contains(currencyCodes, string(s[i+1:end+1])) {
		if end == start-1 { // the letters touch the digits
			return false, false
		}
		return false, true
	}
	if c := at(); c != '-' && c != '+' {
		return false, true
	}
	minus := at() == '-'
	i--
	if c := at(); unicode.IsLetter(c) || isDigit(c) || strings.ContainsRune(")]}%-+", c) {
		return false, true
	}
	return minus, true
}

// scanDecimal reads digits in groups of three and a decimal part.
func scanDecimal(s []rune, i int) (digits string, end int) {
	start := i
	for i < len(s) && isDigit(s[i]) {
		i++
	}
	var b strings.Builder
	b.WriteString(string(s[start:i]))
	if n := i - start; n >= 1 && n <= 3 && i < len(s) && strings.ContainsRune(",\u00a0\u2009\u202f", s[i]) {
		for separator := s[i]; i+3 < len(s) && s[i] == separator; i += 4 {
			if !isDigit(s[i+1]) || !isDigit(s[i+2]) || !isDigit(s[i+3]) || i+4 < len(s) && isDigit(s[i+4]) {
				break
			}
			b.WriteString(string(s[i+1 : i+4]))
		}
	}
	if i+1 < len(s) && s[i] == '.' && isDigit(s[i+1]) {
		if b.Len() == 0 {
			b.WriteByte('0')
		}
		b.WriteByte('.')
		for i++; i < len(s) && isDigit(s[i]); i++ {
			b.WriteRune(s[i])
		}
	}
	return b.String(), i
}

// scanExponent reads "e3" or "E-3" with no letter or digit behind it. Without
// one it returns i.
func scanExponent(s []rune, i int) (exponent, end int) {
	if i >= len(s) || s[i] != 'e' && s[i] != 'E' {
		return 0, i
	}
	j := i + 1
	if j < len(s) && (s[j] == '+' || s[j] == '-') {
		j++
	}
	from := j
	for j < len(s) && isDigit(s[j]) && j-from < 4 {
		j++
	}
	if j == from || j < len(s) && (unicode.IsLetter(s[j]) || isDigit(s[j])) {
		return 0, i
	}
	n, err := strconv.Atoi(string(s[i+1 : j]))
	if err != nil || n > maxExponent || n < -maxExponent {
		return 0, i
	}
	return n, j
}

// power10 returns 10^n exactly.
func power10(n int) *big.Rat {
	p := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(n, -n))), nil)
	if n < 0 {
		return new(big.Rat).SetFrac(big.NewInt(1), p)
	}
	return new(big.Rat).SetInt(p)
}

// canonical writes a number in one way: digits with as many decimals as it
// needs, or a reduced fraction if no decimals suffice.
func canonical(v *big.Rat) string {
	if places, exact := v.FloatPrec(); exact {
		return v.FloatString(places)
	}
	return v.RatString()
}

// strictNumber returns the first number behind the last "####".
func strictNumber(text string) (string, bool) {
	at := strings.LastIndex(text, "####")
	if at < 0 {
		return "", false
	}
	if all := numbers(text[at+4:]); len(all) > 0 {
		return canonical(all[0].value), true
	}
	return "", false
}

// flexibleNumber returns the last number of the text.
func flexibleNumber(text string) (string, bool) {
	if all := numbers(text); len(all) > 0 {
		return canonical(all[len(all)-1].value), true
	}
	return "", false
}

var digitRun = regexp.MustCompile(`\p{Nd}+`)

// legacyNumber returns the last run of digits after all commas are taken out, as
// the script that most published results come from does: no sign, no decimals,
// and a leading zero makes it invalid.
func legacyNumber(text string) (string, bool) {
	runs := digitRun.FindAllString(strings.ReplaceAll(text, ",", ""), -1)
	if len(runs) == 0 {
		return "", false
	}
	last := runs[len(runs)-1]
	rest := strings.TrimLeft(last, "0")
	switch {
	case rest == "":
		return "0", true
	case len(rest) < len(last) || strings.ContainsFunc(rest, func(c rune) bool { return !isDigit(c) }):
		return "", false
	}
	return rest, true
}
