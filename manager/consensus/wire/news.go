package wire

import "strings"

// kindsSaid bounds how many kinds of failure are said of a peer before it is up
// again; there are about four ways in which a connection fails.
const kindsSaid = 8

// news are the kinds of failure that were said of a peer since it was up last.
type news map[string]bool

// fresh reports whether a failure is to be said: once for each kind. Those that
// differ in numbers only, as ports and times do, are of one.
func (n news) fresh(err error) bool {
	kind := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, err.Error())
	if n[kind] || len(n) >= kindsSaid {
		return false
	}
	n[kind] = true
	return true
}
