package ca

// A Former is a root that signed before another one, and the certificate by which
// it leads to that.
type Former struct {
	// Root and Cross are DER; Cross is the root that followed, certified by Root.
	Root, Cross []byte
}

// Via returns what goes with a leaf so that who trusts one of the formers, the
// newest first, verifies it: first what leads on and then the roots, because there
// are programs that try no other way once they have met a root.
func Via(formers []Former) [][]byte {
	var crosses, roots [][]byte
	for _, f := range formers {
		crosses, roots = append(crosses, f.Cross), append(roots, f.Root)
	}
	return append(crosses, roots...)
}

// Formers undoes Via.
func Formers(via [][]byte) []Former {
	n := len(via) / 2
	out := make([]Former, n)
	for i := range n {
		out[i] = Former{Cross: via[i], Root: via[n+i]}
	}
	return out
}
