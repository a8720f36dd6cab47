package swarm

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/say"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// The key of authenticated signing, in bytes: cfssl's is of 16 or more.
	minAuthKey = 16
	maxAuthKey = 64
)

func externalFlag(usage string) cli.Flag {
	return &cli.StringSliceFlag{Name: "external-ca", Usage: usage +
		"; `CA` is protocol=cfssl,url=https://HOST[:PORT][,cacert=FILE][,authkey=FILE][,label=NAME]; several are asked in this order"}
}

// readExternal reads where external CAs are. No error quotes a key.
func readExternal(words []string) (out []*modelv1.ExternalCA, err error) {
	for _, text := range words {
		at, err := parseExternal(text)
		if err != nil {
			return nil, say.Misuse("--external-ca: %v", err)
		}
		out = append(out, at)
	}
	return out, nil
}

func parseExternal(text string) (*modelv1.ExternalCA, error) {
	out := &modelv1.ExternalCA{}
	var seen []string
	for field := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok || value == "" {
			return nil, fmt.Errorf("%.60q: want protocol=cfssl,url=https://HOST[:PORT][,cacert=FILE][,authkey=FILE][,label=NAME]", field)
		}
		if slices.Contains(seen, key) {
			return nil, fmt.Errorf("%s is given twice in one", key)
		}
		seen = append(seen, key)
		var err error
		switch key {
		case "protocol":
			if value != "cfssl" {
				err = fmt.Errorf("protocol %.60q: want cfssl", value)
			}
		case "url":
			out.Url, err = strings.TrimSuffix(value, "/"), ca.CheckExternal(strings.TrimSuffix(value, "/"))
		case "cacert":
			out.Trust, err = readCertificates(value)
		case "authkey":
			out.AuthKey, err = readAuthKey(value)
		case "label":
			out.Label = value
		default:
			err = fmt.Errorf("%.60q is not known: want protocol, url, cacert, authkey and label", key)
		}
		if err != nil {
			return nil, err
		}
	}
	if !slices.Contains(seen, "protocol") || out.GetUrl() == "" {
		return nil, errors.New("protocol=cfssl and url=https://HOST[:PORT] are needed")
	}
	return out, nil
}

// readCertificates reads the certificates of a file in PEM, DER.
func readCertificates(path string) (out [][]byte, err error) {
	text, err := readSome(path, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("cacert=%s: %w", path, err)
	}
	for {
		block, rest := pem.Decode(text)
		switch {
		case block == nil && len(out) == 0:
			return nil, fmt.Errorf("cacert=%s: it holds no certificate in PEM", path)
		case block == nil:
			return out, nil
		case block.Type != "CERTIFICATE":
			return nil, fmt.Errorf("cacert=%s: certificates are needed, and it holds a %q", path, block.Type)
		}
		out, text = append(out, block.Bytes), rest
	}
}

// readAuthKey reads the key of authenticated signing: hex, as in cfssl's configuration.
func readAuthKey(path string) ([]byte, error) {
	text, err := readSome(path, 4*maxAuthKey)
	if err != nil {
		return nil, fmt.Errorf("authkey=%s: %w", path, err)
	}
	key, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(key) < minAuthKey || len(key) > maxAuthKey {
		return nil, fmt.Errorf("authkey=%s: the file is to hold a key as it is in cfssl's configuration, %d to %d bytes in hex", path, minAuthKey, maxAuthKey)
	}
	return key, nil
}

// readSome reads a file that is no longer than most bytes.
func readSome(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("it is longer than %d bytes", most)
	}
	return text, err
}
