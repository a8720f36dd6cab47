package node

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func inspect(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show nodes in full",
		ArgsUsage: "self|NODE...",
		Flags:     append(show.InspectFlags(), conn.StaleFlag(), conn.TimeoutFlag(conn.ForAnswer)),
		Before: func(c *cli.Context) error {
			if err := show.CheckInspect(c); err != nil {
				return err
			}
			return needNodes(c)
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			var found []*controlv1.GetNodeResponse
			missing := conn.Each(ctx, c.Args().Slice(), func(ctx context.Context, ref string) error {
				resp, err := get(ctx, api, ref)
				if err == nil {
					found = append(found, resp)
				}
				return err
			})
			if err := print(s, c, found); err != nil {
				return err
			}
			return missing
		}),
	}
}

func print(s *say.Streams, c *cli.Context, found []*controlv1.GetNodeResponse) error {
	if c.Bool("pretty") {
		for _, n := range found {
			if err := pretty(n).Print(s.Out); err != nil {
				return err
			}
		}
		return nil
	}
	objects := make([]object, 0, len(found))
	for _, n := range found {
		objects = append(objects, newObject(n))
	}
	return show.Inspect(s.Out, c.String("format"), objects)
}

func pretty(resp *controlv1.GetNodeResponse) *show.Sheet {
	view, n := resp.GetNode(), resp.GetNode().GetNode()
	d := n.GetDescription()
	s := &show.Sheet{}
	s.Field("ID", show.ID(n.GetId()))
	s.Field("Name", n.GetSpec().GetName())
	s.Items("Labels", show.Labels(n.GetSpec().GetLabels()))
	s.Field("Hostname", d.GetHostname())
	s.Field("Joined at", show.When(n.GetMeta().GetCreatedAt()))
	s.Field("Role", reasoned(n))
	if n.GetMembership() == modelv1.Membership_MEMBERSHIP_PENDING {
		s.Field("Waits with key", fingerprint(n))
	}
	if show.WaitsToRenew(n) {
		s.Block("Waits to renew", func(s *show.Sheet) {
			s.Field("Because", n.GetWait().GetReason())
			s.Field("Key", digest(n.GetWait().GetKey()))
			s.Field("From", n.GetWait().GetFrom())
			s.Field("Since", show.When(n.GetWait().GetAskedAt()))
		})
	}
	s.Field("Certificates revoked", show.When(n.GetRevokedAt()))
	s.Block("Status", func(s *show.Sheet) {
		s.Field("State", show.NodeState(n))
		s.Field("Message", n.GetStatus().GetMessage())
		s.Field("Not heard since", show.When(n.GetStatus().GetLostSince()))
		s.Field("Used also at", n.GetStatus().GetTwinAddress())
		s.Field("Clock", show.Clock(n.GetStatus().GetClockAhead(), n.GetStatus().GetClockBy()))
		s.Field("Availability", show.Title(availability(n)))
		s.Field("Address", address(n))
	})
	if m := view.GetManager(); m != nil {
		s.Block("Manager Status", func(s *show.Sheet) {
			s.Field("Address", m.GetAddress())
			s.Field("Raft Status", show.Title(reachability(m)))
			s.Field("Not heard since", show.When(m.GetUnreachableSince()))
			s.Field("Leader", yesNo(m.GetLeader()))
		})
	}
	s.Block("Platform", func(s *show.Sheet) {
		s.Field("Operating System", d.GetOs())
		s.Field("Architecture", d.GetArchitecture())
	})
	if r := d.GetResources(); r != nil {
		s.Block("Resources", func(s *show.Sheet) {
			s.Field("CPUs", show.CPUs(r.GetNanoCpus()))
			s.Field("Memory", show.Bytes(r.GetMemoryBytes()))
		})
	}
	s.Field("Engine Version", d.GetVersion())
	s.Field("Runtime", d.GetRuntime())
	s.Field("FIPS 140-3", show.FIPS(d.GetFips(), ""))
	s.Items("Engine Labels", show.Labels(d.GetEngineLabels()))
	if t := newTLSInfo(resp.GetRoots()); t != nil {
		s.Block("TLS Info", func(s *show.Sheet) {
			s.Line("TrustRoot:")
			s.Raw(t.TrustRoot)
			s.Field("Issuer Subject", t.CertIssuerSubject)
			s.Field("Issuer Public Key", t.CertIssuerPublicKey)
		})
	}
	return s
}

// reasoned is the role of a node that has it by nobody's wish, and why.
func reasoned(n *modelv1.Node) string {
	if n.GetRoleReason() == "" {
		return ""
	}
	return role(n.GetRole()) + " (" + n.GetRoleReason() + ")"
}

func yesNo(b bool) string {
	if b {
		return "Yes"
	}
	return "No"
}

// newTLSInfo describes the roots that the node trusts; nil if there are none.
func newTLSInfo(roots [][]byte) *tlsInfo {
	if len(roots) == 0 {
		return nil
	}
	var b bytes.Buffer
	for _, der := range roots {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a buffer takes everything
	}
	t := &tlsInfo{TrustRoot: b.String()}
	if cert, err := x509.ParseCertificate(roots[0]); err == nil {
		t.CertIssuerSubject = base64.StdEncoding.EncodeToString(cert.RawSubject)
		t.CertIssuerPublicKey = base64.StdEncoding.EncodeToString(cert.RawSubjectPublicKeyInfo)
	}
	return t
}
