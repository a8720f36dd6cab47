package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/skep-project/skep/internal/durable"
)

const (
	// factsFile holds what this node knows of its own manager side.
	factsFile = "manager.json"
	// factsFormat is the format this version writes, and the newest it reads.
	factsFormat = 1
)

// facts is the manager side of this node as it survives a restart. The zero
// value is a node that is no manager.
type facts struct {
	Format int `json:"format"`
	// Installed: ring and log are on the disk, and the member, whose id the log
	// knows, may be in the group or not yet.
	Installed bool `json:"installed,omitempty"`
	// Member is the index at which the member record exists; 0 while the node
	// is still joining the managers.
	Member uint64 `json:"member,omitempty"`
	// Peers is whom a learner may hear before it holds any record.
	Peers []peer `json:"peers,omitempty"`
}

// A peer is a member of the group as it was at the join.
type peer struct {
	RaftID  uint64 `json:"raft_id,string"`
	Node    string `json:"node"`
	Address string `json:"address"`
}

func readFacts(dir *os.Root) (facts, error) {
	data, err := durable.ReadFile(dir, factsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return facts{}, nil
	}
	if err != nil {
		return facts{}, err
	}
	var f facts
	if err := json.Unmarshal(data, &f); err != nil {
		return facts{}, fmt.Errorf("read %s: %w", factsFile, err)
	}
	if f.Format > factsFormat {
		return facts{}, fmt.Errorf("read %s: written in format %d by a newer version, this one reads up to %d: install that version again", factsFile, f.Format, factsFormat)
	}
	return f, nil
}

func (f facts) write(dir *os.Root) error {
	f.Format = factsFormat
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", factsFile, err)
	}
	return durable.WriteFile(dir, factsFile, append(data, '\n'))
}
