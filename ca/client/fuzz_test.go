package client

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
)

// FuzzAccept reads what an authority answers: nothing is taken that is not a
// certificate for the key that is held here.
func FuzzAccept(f *testing.F) {
	key, err := ca.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	text, err := proto.Marshal(&cav1.Issued{Cluster: make([]byte, 16), Node: make([]byte, 16), Role: 1, Chain: [][]byte{{0x30}}, Roots: [][]byte{{0x30}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, data []byte) {
		issued := &cav1.Issued{}
		if proto.Unmarshal(data, issued) != nil {
			return
		}
		if _, err := Accept(issued, key); err == nil {
			t.Error("noise is a certificate for this key")
		}
	})
}
