package tally

import (
	"context"

	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	roles = 3 // one for each modelv1.Role
	calls = 2 // enrolments and renewals
)

const (
	enroll = 0
	renew  = 1
)

// Authority is next, counted.
func (t *Tally) Authority(next cav1.AuthorityServer) cav1.AuthorityServer {
	return authority{AuthorityServer: next, tally: t}
}

type authority struct {
	cav1.AuthorityServer
	tally *Tally
}

// Enroll passes an enrolment on.
func (a authority) Enroll(ctx context.Context, req *cav1.EnrollRequest) (*cav1.EnrollResponse, error) {
	resp, err := a.AuthorityServer.Enroll(ctx, req)
	a.tally.certificate(enroll, resp.GetIssued().GetRole(), err)
	return resp, err
}

// Renew passes a renewal on.
func (a authority) Renew(ctx context.Context, req *cav1.RenewRequest) (*cav1.RenewResponse, error) {
	resp, err := a.AuthorityServer.Renew(ctx, req)
	a.tally.certificate(renew, resp.GetIssued().GetRole(), err)
	return resp, err
}

func (t *Tally) certificate(call int, role modelv1.Role, err error) {
	switch {
	case err != nil:
		t.refused[call].Inc()
	case role > 0 && role < roles:
		t.issued[role].Inc()
	}
}
