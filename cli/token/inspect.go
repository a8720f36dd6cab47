package token

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// object is a token as inspect prints it; the set only grows.
type object struct {
	ID          string
	CreatedAt   *time.Time `json:",omitempty"`
	CreatedBy   string
	Description string
	Role        string
	Status      string
	ExpiresAt   *time.Time `json:",omitempty"`
	EndedAt     *time.Time `json:",omitempty"`
	EndReason   string     `json:",omitempty"`
	Uses        uint32
	Name        string            `json:",omitempty"`
	From        []string          `json:",omitempty"`
	Labels      map[string]string `json:",omitempty"`
	Approve     bool
	UsedBy      []use
}

// use is one node that a token let in.
type use struct {
	Node      string
	Hostname  string
	From      string
	At        *time.Time
	Key       string
	Verdict   string
	DecidedBy string `json:",omitempty"`
}

var verdicts = map[modelv1.TokenVerdict]string{
	modelv1.TokenVerdict_TOKEN_VERDICT_UNSPECIFIED: "let in",
	modelv1.TokenVerdict_TOKEN_VERDICT_PENDING:     "waits to be accepted",
	modelv1.TokenVerdict_TOKEN_VERDICT_REJECTED:    "rejected",
	modelv1.TokenVerdict_TOKEN_VERDICT_LAPSED:      "not accepted in time",
}

func newObject(t *modelv1.JoinToken, now time.Time) object {
	o := object{
		ID: show.ID(t.GetId()), CreatedAt: show.Time(t.GetMeta().GetCreatedAt()), CreatedBy: t.GetCreatedBy(),
		Description: t.GetDescription(), Role: role(t.GetRole()), Status: status(t, now),
		ExpiresAt: show.Time(t.GetExpiresAt()), EndedAt: show.Time(t.GetEndedAt()), EndReason: t.GetEndReason(),
		Uses: t.GetUses(), Name: t.GetName(), From: t.GetFrom(), Labels: t.GetLabels(), Approve: t.GetApprove(), UsedBy: []use{},
	}
	for _, u := range t.GetUsed() {
		key, err := ca.DigestFromBytes(u.GetKey())
		fingerprint := ""
		if err == nil {
			fingerprint = key.Fingerprint()
		}
		o.UsedBy = append(o.UsedBy, use{Node: show.ID(u.GetNode()), Hostname: u.GetHostname(), From: u.GetFrom(),
			At: show.Time(u.GetAt()), Key: fingerprint, Verdict: verdicts[u.GetVerdict()], DecidedBy: u.GetDecidedBy()})
	}
	return o
}

func inspect(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show join tokens in full: who used them, when, and from where",
		ArgsUsage: "TOKEN...",
		Flags:     append(show.InspectFlags(), conn.StaleFlag(), conn.TimeoutFlag(conn.ForAnswer)),
		Before: func(c *cli.Context) error {
			if err := show.CheckInspect(c); err != nil {
				return err
			}
			return needTokens(c)
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			var found []object
			missing := conn.Each(ctx, c.Args().Slice(), func(ctx context.Context, ref string) error {
				resp, err := conn.Read(ctx, api, controlv1.ControlClient.GetToken, &controlv1.GetTokenRequest{Ref: ref})
				if err == nil {
					found = append(found, newObject(resp.GetToken(), time.Unix(0, resp.GetNow())))
				}
				return err
			})
			if err := show.Objects(s.Out, c, found, pretty); err != nil {
				return err
			}
			return missing
		}),
	}
}

func pretty(o object) *show.Sheet {
	s := &show.Sheet{}
	s.Field("ID", o.ID)
	s.Field("Description", o.Description)
	s.Field("Role", o.Role)
	s.Field("Status", o.Status)
	s.Field("Created by", o.CreatedBy)
	if o.ExpiresAt != nil {
		s.Field("Expires", o.ExpiresAt.Format(time.RFC3339))
	}
	s.Field("Over because", o.EndReason)
	s.Field("Host name", o.Name)
	s.Items("From", o.From)
	s.Items("Labels", show.Labels(o.Labels))
	s.Field("Uses", fmt.Sprintf("%d of %d", len(o.UsedBy), o.Uses))
	for _, u := range o.UsedBy {
		s.Block("Used by "+u.Hostname, func(s *show.Sheet) {
			s.Field("Node", u.Node)
			s.Field("From", u.From)
			s.Field("At", u.At.Format(time.RFC3339))
			s.Field("Key", u.Key)
			s.Field("Verdict", u.Verdict)
			s.Field("Decided by", u.DecidedBy)
		})
	}
	return s
}
