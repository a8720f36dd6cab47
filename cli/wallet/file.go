package wallet

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// format is the version of a context's file. A reader that meets another one
// stops.
const format = 1

// MaxBytes bounds a context's file.
const MaxBytes = 1 << 20

// file is a context as it is written: JSON, with everything that openssl knows
// in PEM.
type file struct {
	Format      int         `json:"format"`
	Cluster     id.ID       `json:"cluster"`
	User        string      `json:"user"`
	Role        string      `json:"role"`
	Expires     time.Time   `json:"expires"`
	Roots       string      `json:"roots"`
	Certificate string      `json:"certificate"`
	Key         string      `json:"key"`
	Managers    managerList `json:"managers"`
	Last        string      `json:"last,omitempty"`
}

type managerList struct {
	Index    uint64    `json:"index"`
	History  string    `json:"history"`
	ListedAt time.Time `json:"listed_at"`
	Managers []manager `json:"list"`
}

type manager struct {
	Node    id.ID    `json:"node"`
	Address string   `json:"address"`
	Keys    []string `json:"keys,omitempty"`
}

// Marshal writes a context, key and all.
func (c *Context) Marshal() ([]byte, error) {
	key, err := encodeKey(c.key)
	if err != nil {
		return nil, err
	}
	who := c.Credential.Identity
	f := file{
		Format: format, Cluster: who.Cluster, User: who.Name, Role: c.Role.String(), Expires: who.NotAfter.UTC(),
		Roots: encodeCerts(c.Credential.Roots.DER()), Certificate: encodeCerts(c.Credential.Chain), Key: string(key),
		Managers: managerList{Index: c.Managers.GetIndex(), History: hex.EncodeToString(c.Managers.GetHistory()), ListedAt: c.ListedAt.UTC()},
		Last:     c.Last,
	}
	for _, m := range c.Managers.GetManagers() {
		one := manager{Address: m.GetAddress()}
		if one.Node, err = id.FromBytes(m.GetNode()); err != nil {
			return nil, fmt.Errorf("the list of managers: %w", err)
		}
		for _, k := range m.GetKeys() {
			one.Keys = append(one.Keys, hex.EncodeToString(k))
		}
		f.Managers.Managers = append(f.Managers.Managers, one)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	err = e.Encode(f)
	return b.Bytes(), err
}

// Parse reads what Marshal wrote. What the certificate says counts, not what the
// file says beside it. No error quotes the key.
func Parse(data []byte) (*Context, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("context of %d bytes: at most %d", len(data), MaxBytes)
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, errors.New("this is no context: want what \"ctl user create\" or \"ctl context export\" wrote")
	}
	if f.Format != format {
		return nil, fmt.Errorf("context of format %d: this version reads %d", f.Format, format)
	}
	cred, err := f.credential()
	if err != nil {
		return nil, fmt.Errorf("context: %w", err)
	}
	list, err := f.Managers.list()
	if err != nil {
		return nil, fmt.Errorf("context: managers: %w", err)
	}
	key, err := decodeKey([]byte(f.Key))
	if err != nil {
		return nil, fmt.Errorf("context: %w", err)
	}
	return &Context{Credential: cred, Role: modelv1.UserRole(modelv1.UserRole_value[f.Role]),
		Managers: list, ListedAt: f.Managers.ListedAt, Last: f.Last, key: key}, nil
}

func (f *file) credential() (*ca.UserCredential, error) {
	ders, err := decodeCerts(f.Roots)
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	roots, err := ca.ParseBundle(ders)
	if err != nil {
		return nil, err
	}
	chain, err := decodeCerts(f.Certificate)
	if err != nil {
		return nil, err
	}
	key, err := decodeKey([]byte(f.Key))
	if err != nil {
		return nil, err
	}
	return ca.NewUserCredential(chain, key, roots)
}

// maxManagers bounds a list.
const maxManagers = 1000

func (l managerList) list() (*cav1.ManagerList, error) {
	if len(l.Managers) > maxManagers {
		return nil, fmt.Errorf("%d of them, at most %d", len(l.Managers), maxManagers)
	}
	history, err := hex.DecodeString(l.History)
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	out := &cav1.ManagerList{Index: l.Index, History: history}
	for _, m := range l.Managers {
		one := &cav1.Manager{Node: m.Node.Bytes(), Address: m.Address}
		for _, k := range m.Keys {
			key, err := hex.DecodeString(k)
			if err == nil {
				_, err = ca.DigestFromBytes(key)
			}
			if err != nil {
				return nil, fmt.Errorf("key of %s: %w", m.Address, err)
			}
			one.Keys = append(one.Keys, key)
		}
		out.Managers = append(out.Managers, one)
	}
	return out, nil
}
