package rpc

import (
	"testing"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// FuzzFreshness reads what a header says of an answer.
func FuzzFreshness(f *testing.F) {
	f.Add(Freshness{Stale: true, Applied: 7, Silence: 3}.header()[mdFresh][0])
	f.Add("true -1 x")
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := FreshnessOf(metadata.Pairs(mdFresh, text))
		if again, well := FreshnessOf(got.header()); ok && (!well || again != got) {
			t.Errorf("%q is read as %+v, which is read again as %+v", text, got, again)
		}
	})
}

// FuzzStatus reads the error of a call with what is to be done about it, as a client
// does: what came in is an error, and has a kind.
func FuzzStatus(f *testing.F) {
	s, ok := status.FromError(toStatus(RefuseNoLeader([]string{"m2"}, 2, 1)))
	if !ok {
		f.Fatal("it is no status")
	}
	text, err := proto.Marshal(s.Proto())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &spb.Status{}
		if proto.Unmarshal(data, p) != nil || p.GetCode() == 0 {
			return
		}
		err := fromStatus(status.ErrorProto(p))
		if err == nil {
			t.Fatal("an error is none")
		}
		_, _, _ = HintOf(err), RefusalOf(err).GetAct(), toStatus(err)
	})
}
