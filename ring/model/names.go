package model

import (
	"strings"

	"golang.org/x/sys/unix"
)

// CheckName checks a name to send (R1.1, R1.4).
func CheckName(name string) error {
	switch {
	case name == "":
		return unix.EINVAL
	case len(name) > MaxName:
		return unix.ENAMETOOLONG
	case !wellFormed(name, false):
		return unix.EBADMSG
	}
	return nil
}

// CheckBinding checks a name to bind or unbind (R1.2, R1.4).
func CheckBinding(name string) error {
	switch {
	case len(name) > MaxName:
		return unix.ENAMETOOLONG
	case !wellFormed(name, true):
		return unix.EBADMSG
	}
	return nil
}

// wellFormed says whether a name has the form of R1.1, or, with wild, that of R1.2.
func wellFormed(name string, wild bool) bool {
	words, found := strings.CutPrefix(name, "$.")
	if !found {
		return false
	}
	for last := false; !last; {
		var word string
		word, words, found = strings.Cut(words, ".")
		last = !found
		if wild && last && (word == "*" || word == "%") {
			return true
		}
		if word == "" {
			return false
		}
		for i := range len(word) {
			switch c := word[i]; {
			case '0' <= c && c <= '9', 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z':
			default:
				return false
			}
		}
	}
	return true
}

// Match says whether a message named name comes by a binding to binding (R1.3). Both are well formed.
func Match(binding, name string) bool {
	stem, wild := binding[:len(binding)-1], binding[len(binding)-1]
	switch wild {
	case '*':
		return len(name) > len(stem) && strings.HasPrefix(name, stem)
	case '%':
		return len(name) > len(stem) && strings.HasPrefix(name, stem) && !strings.Contains(name[len(stem):], ".")
	}
	return binding == name
}

// moreSpecific says whether of two bindings that match one name a is the more specific (R4.3).
func moreSpecific(a, b string) bool {
	if ra, rb := rank(a), rank(b); ra != rb {
		return ra > rb
	}
	return len(a) > len(b)
}

// rank orders the kinds of binding (R4.3).
func rank(binding string) int {
	switch binding[len(binding)-1] {
	case '*':
		return 0
	case '%':
		return 1
	}
	return 2
}
