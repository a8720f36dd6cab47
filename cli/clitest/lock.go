package clitest

import (
	"context"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// unlockKeys are the keys of a swarm whose managers are locked, in turn.
var unlockKeys = []string{
	string(sealed.SpellUnlockKey(sealed.NewSecret(make([]byte, sealed.KeyBytes))).Reveal()),
	string(sealed.SpellUnlockKey(sealed.NewSecret([]byte("the second key of a swarm 32 byt"))).Reveal()),
}

// GetUnlockKey shows the key, if managers are locked.
func (s *Swarm) GetUnlockKey(context.Context, *controlv1.GetUnlockKeyRequest) (*controlv1.GetUnlockKeyResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.Cluster.GetCluster().GetSpec().GetAutolock() {
		return nil, rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "the managers of this swarm are not locked: there is no unlock key"),
			"lock them with: ctl swarm update --autolock=true")
	}
	n := s.Cluster.GetCluster().GetUnlockNumber()
	return &controlv1.GetUnlockKeyResponse{UnlockKey: unlockKeys[n%2], Number: n + 1, Behind: []string{"dev02"}}, nil
}

// RotateUnlockKey makes it the other one.
func (s *Swarm) RotateUnlockKey(context.Context, *controlv1.RotateUnlockKeyRequest) (*controlv1.RotateUnlockKeyResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Cluster.Cluster.UnlockNumber++
	n := s.Cluster.GetCluster().GetUnlockNumber()
	return &controlv1.RotateUnlockKeyResponse{UnlockKey: unlockKeys[n%2], Number: n + 1}, nil
}
