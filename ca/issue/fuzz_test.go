package issue_test

import (
	"testing"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/ca/issue/cfssltest"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// FuzzAccept: what is not signed by the root is no certificate, however it looks.
func FuzzAccept(f *testing.F) {
	root := cfssltest.NewRoot(f, "outside")
	is, err := issue.Outside([][]byte{root.DER})
	if err != nil {
		f.Fatal(err)
	}
	key, err := ca.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		f.Fatal(err)
	}
	public, err := ca.ParseCSR(csr)
	if err != nil {
		f.Fatal(err)
	}
	p := ca.Profile{Cluster: id.New(), Node: id.New(), Role: modelv1.Role_ROLE_MANAGER, Generation: 1, Lifetime: time.Hour}
	record, err := is.Prepare(p, public, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(root.DER)
	f.Add(csr)
	f.Add([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, der []byte) {
		if _, _, err := is.Accept(p.Cluster, p.Node, record, der, time.Now()); err == nil {
			t.Errorf("%x was taken", der)
		}
	})
}
