package manager

import (
	"context"
	"crypto/tls"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca/external"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// probeEvery is how often it is looked whether each external CA is there.
	probeEvery = 30 * time.Second
	// tellEvery is how old the recorded time of an answer may be.
	tellEvery = time.Hour
	// tellHealthTime bounds one try to record how external CAs are.
	tellHealthTime = 10 * time.Second
)

// shown is what this manager shows to an external CA that asks who calls: what it shows
// to everybody. nil while it has none.
func (m *Manager) shown() *tls.Certificate {
	if own := m.cfg.Credential.Get(); own != nil {
		return own.TLS()
	}
	return nil
}

// watchExternal looks after external CAs for a tenure: it asks each now and then
// whether it is there, and records when one begins to fail or ends that.
func (m *Manager) watchExternal(ctx context.Context) error {
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	for {
		root := m.store.Snapshot().Cluster().GetRoot()
		m.outside.Forget(root.GetExternal())
		for _, at := range root.GetExternal() {
			if time.Since(m.outside.Health(at.GetUrl()).Answered) >= probeEvery {
				m.outside.Probe(ctx, at, root.GetCertificates()[0])
			}
		}
		if err := m.tellHealth(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-m.outside.Changed():
			if err := m.tellHealth(ctx); err != nil {
				return err
			}
		case <-t.C:
		}
	}
}

// tellHealth records how external CAs are, if that is news.
func (m *Manager) tellHealth(ctx context.Context) error {
	if _, news := health(m.store.Snapshot().Cluster().GetRoot(), m.outside.Health, m.store.Now()); !news {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, tellHealthTime)
	defer stop()
	_, err := m.db.Update(ctx, nil, func(tx *store.Tx) error {
		next, news := health(tx.Cluster().GetRoot(), m.outside.Health, tx.Base().Now())
		if !news {
			return nil
		}
		c := proto.CloneOf(tx.Cluster())
		c.Root.ExternalHealth = next
		return tx.PutCluster(c)
	})
	return err
}

// health is how the external CAs of a root are, and whether that is news. What was not
// asked in this tenure is as it was.
func health(root *modelv1.RootCA, of func(url string) external.Health, now time.Time) (out []*modelv1.ExternalHealth, news bool) {
	before := make(map[string]*modelv1.ExternalHealth)
	for _, h := range root.GetExternalHealth() {
		before[h.GetUrl()] = h
	}
	for _, at := range root.GetExternal() {
		was, is := before[at.GetUrl()], of(at.GetUrl())
		if is == (external.Health{}) {
			if was != nil {
				out = append(out, was)
			}
			continue
		}
		next := &modelv1.ExternalHealth{Url: at.GetUrl(), Failing: is.Failing(), Error: is.Err, Since: was.GetSince(), AnsweredAt: was.GetAnsweredAt()}
		turned := was == nil || was.GetFailing() != is.Failing()
		if turned {
			next.Since = now.UnixNano()
		}
		if !is.Answered.IsZero() && (turned || is.Answered.UnixNano()-was.GetAnsweredAt() >= int64(tellEvery)) {
			next.AnsweredAt = is.Answered.UnixNano()
			turned = true
		}
		if !turned {
			next = was
		}
		out, news = append(out, next), news || turned
	}
	return out, news || len(out) != len(root.GetExternalHealth())
}
