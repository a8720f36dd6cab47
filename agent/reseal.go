package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/skep-project/skep/agent/worker"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
)

// Reseal seals the agent's journal, which is under former, under kek from now on,
// whether the agent runs or not.
func (a *Agent) Reseal(former, kek sealed.Secret) error {
	a.sealing.Lock()
	defer a.sealing.Unlock()
	var err error
	if a.journal != nil {
		err = a.journal.Reseal(kek)
	} else {
		err = ResealJournal(a.cfg.StateDir, former, kek, a.cfg.Cluster, a.cfg.Node)
	}
	if err == nil {
		a.cfg.KEK = kek
	}
	return err
}

// letGo notes that the journal is being closed.
func (a *Agent) letGo() {
	a.sealing.Lock()
	defer a.sealing.Unlock()
	a.journal = nil
}

// ResealJournal seals the journal in an agent's directory under kek if it is there
// and under former. It is for the time before an Agent runs.
func ResealJournal(stateDir string, former, kek sealed.Secret, cluster, node id.ID) error {
	dir, err := os.OpenRoot(stateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the agent's state directory: %w", err)
	}
	return errors.Join(worker.ResealJournal(dir, former, kek, cluster, node), dir.Close())
}
