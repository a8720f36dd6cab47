package enrol_test

import (
	"crypto/tls"
	"io"
	"testing"
)

// placesForStrangers is how many connections without a certificate a manager has at
// a time (docs/threat-model.md).
const placesForStrangers = 512

// TestStrangersTakeNoPlaceOfNodes: when all places for those without a certificate
// are taken, no other of them is let in, and nodes come and go as before.
func TestStrangersTakeNoPlaceOfNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.serve(t, w.node(t, asManager))
	early := w.node(t, asWorker)
	open, err := session(t, w.dial(t, m, early))
	if err != nil {
		t.Fatal(err)
	}
	for i := range placesForStrangers {
		if !letsIn(t, m.address) {
			t.Fatalf("stranger %d found no place, want %d", i+1, placesForStrangers)
		}
	}
	if letsIn(t, m.address) {
		t.Errorf("there is a place for stranger %d", placesForStrangers+1)
	}
	if _, err := session(t, w.dial(t, m, w.node(t, asWorker))); err != nil {
		t.Errorf("a node that comes now: %v", err)
	}
	if err := open.CloseSend(); err != nil || open.Context().Err() != nil {
		t.Errorf("a node that was there: %v, %v", err, open.Context().Err())
	}
}

// letsIn reports whether a manager speaks to one more who shows no certificate, and
// keeps the connection until the test ends.
func letsIn(t *testing.T, address string) bool {
	t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, InsecureSkipVerify: true})
	if err != nil {
		return false
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.ReadFull(conn, make([]byte, 9)) // the head of its settings
	return err == nil
}
