package swarm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func rootCA(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "ca",
		Usage: "show the root certificate, or rotate it",
		Description: "Without --rotate or --abort the roots that are trusted are printed, the one that signs first. A rotation gives every node the " +
			"next root to trust, has it sign, has all nodes renew their certificates, and drops the former root. The command shows how far it is " +
			"and ends with it; interrupted, or with --detach, the rotation goes on without it. While one is under way another --rotate joins it. " +
			"The exit code is 0 when everybody has followed, 4 when the rotation is over and some were left behind, 5 when its deadline is over " +
			"and it goes on waiting for some, 1 when it was refused, aborted or replaced, 3 when no manager answered.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "rotate", Usage: "have another root follow, or join the rotation that is under way"},
			&cli.BoolFlag{Name: "abort", Usage: "go back to the root of before the rotation that is under way"},
			&cli.BoolFlag{Name: "replace", Usage: "with --rotate: have another root follow than that of the rotation that is under way"},
			&cli.StringFlag{Name: "ca-cert", Usage: "`FILE` with the root that is to follow, in PEM; without it one is made"},
			&cli.StringFlag{Name: "ca-key", Usage: "`FILE` with its private key (ECDSA), in PEM"},
			&cli.DurationFlag{Name: "cert-expiry", Usage: "how long workers' certificates are to live from now on"},
			&cli.DurationFlag{Name: "deadline", Usage: "how long the rotation may take (24h if nobody says)"},
			&cli.StringFlag{Name: "on-straggler", Usage: "at the deadline `wait` for nodes and users that have not followed, or quarantine them: their certificates count no more (wait if nobody says)"},
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not wait for the end"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress and no root"},
			&cli.StringFlag{Name: "format", Usage: "json: one line for each change"},
			externalFlag("with --ca-cert: where that root signs, and its key is"),
			&cli.StringFlag{Name: "cross-cert", Usage: "`FILE` with the root that is to follow as certified by the present one, in PEM; needed if an external CA has the key of that"},
			conn.TimeoutFlag(conn.ForAnswer),
		},
		Action: func(c *cli.Context) error {
			ask, err := caAsk(c)
			if err != nil {
				return err
			}
			return conn.Endless(s, ask.run)(c)
		},
	}
}

// A caOrder is what the command line asks for.
type caOrder struct {
	rotate *controlv1.RotateRootRequest
	abort  *controlv1.AbortRootRotationRequest
	detach bool
	quiet  bool
	json   bool
}

// caAsk reads the command line; what makes no sense is refused before anybody is
// asked.
func caAsk(c *cli.Context) (*caOrder, error) {
	out := &caOrder{detach: c.Bool("detach"), quiet: c.Bool("quiet"), json: c.String("format") == "json"}
	rotate, abort := c.Bool("rotate"), c.Bool("abort")
	switch {
	case c.IsSet("format") && !out.json:
		return nil, say.Misuse("--format %s: want json", c.String("format"))
	case rotate && abort:
		return nil, say.Misuse("swarm ca: --rotate and --abort exclude each other")
	case !rotate && c.Bool("replace"):
		return nil, say.Misuse("swarm ca: --replace is for --rotate")
	}
	for _, name := range []string{"ca-cert", "ca-key", "cert-expiry", "external-ca", "cross-cert"} {
		if c.IsSet(name) && !rotate {
			return nil, say.Misuse("swarm ca: --%s is for --rotate", name)
		}
	}
	for _, name := range []string{"deadline", "on-straggler", "detach"} {
		if c.IsSet(name) && !rotate && !abort {
			return nil, say.Misuse("swarm ca: --%s is for --rotate and --abort", name)
		}
	}
	policy, err := onStraggler(c.String("on-straggler"))
	if err != nil {
		return nil, err
	}
	deadline := int64(c.Duration("deadline"))
	if c.IsSet("deadline") && deadline <= 0 {
		return nil, say.Misuse("--deadline %v: want more than nothing", c.Duration("deadline"))
	}
	switch {
	case abort:
		out.abort = &controlv1.AbortRootRotationRequest{RequestId: conn.RequestID(), Deadline: deadline, OnStraggler: policy}
	case rotate:
		out.rotate = &controlv1.RotateRootRequest{
			RequestId: conn.RequestID(), Deadline: deadline, OnStraggler: policy,
			CertExpiry: int64(c.Duration("cert-expiry")), Replace: c.Bool("replace"),
		}
		err = giveRoot(c, out.rotate)
	}
	return out, err
}

// giveRoot reads the root that is to follow, if one is given, and where its key is.
func giveRoot(c *cli.Context, q *controlv1.RotateRootRequest) (err error) {
	cert, key, cross := c.String("ca-cert"), c.String("ca-key"), c.String("cross-cert")
	if q.External, err = readExternal(c.StringSlice("external-ca")); err != nil {
		return err
	}
	switch outside := len(q.GetExternal()) > 0; {
	case outside && key != "":
		return say.Misuse("swarm ca: --external-ca and --ca-key exclude each other: the key is there, or here")
	case outside && cert == "":
		return say.Misuse("swarm ca: --external-ca belongs to --ca-cert, the root that the external CA signs with")
	case !outside && (cert == "") != (key == ""):
		return say.Misuse("swarm ca: --ca-cert and --ca-key belong together, or --ca-cert and --external-ca")
	case cross != "" && cert == "":
		return say.Misuse("swarm ca: --cross-cert belongs to --ca-cert, the root that it certifies")
	}
	if q.Certificate, err = readCert("ca-cert", cert); err != nil {
		return err
	}
	if q.Cross, err = readCert("cross-cert", cross); err != nil {
		return err
	}
	q.Key, err = readKey(key)
	return err
}

func onStraggler(word string) (modelv1.StragglerPolicy, error) {
	switch word {
	case "":
		return modelv1.StragglerPolicy_STRAGGLER_POLICY_UNSPECIFIED, nil
	case "wait":
		return modelv1.StragglerPolicy_STRAGGLER_POLICY_WAIT, nil
	case "quarantine":
		return modelv1.StragglerPolicy_STRAGGLER_POLICY_QUARANTINE, nil
	}
	return 0, say.Misuse("--on-straggler %q: want wait or quarantine", word)
}

// maxPEM bounds a file with a certificate or a key.
const maxPEM = 64 << 10

// readCert reads the certificate that a flag names, DER; nil if it names none.
func readCert(flag, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	block, err := readPEM(path)
	if err != nil {
		return nil, say.Misuse("--%s %s: %v", flag, path, err)
	}
	if block.Type != "CERTIFICATE" {
		return nil, say.Misuse("--%s %s: a certificate is needed, and it holds a %q", flag, path, block.Type)
	}
	return block.Bytes, nil
}

// readKey reads the key of a root, PKCS#8; nil if path is empty. No error quotes it.
func readKey(path string) (key []byte, err error) {
	if path == "" {
		return nil, nil
	}
	block, err := readPEM(path)
	if err == nil {
		key, err = pkcs8(block)
	}
	if err != nil {
		return nil, say.Misuse("--ca-key %s: %v", path, err)
	}
	return key, nil
}

// readPEM reads the one block that a file must hold.
func readPEM(path string) (*pem.Block, error) {
	text, err := readSome(path, maxPEM)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	for block != nil && block.Type == "EC PARAMETERS" { // openssl writes them before the key
		block, rest = pem.Decode(rest)
	}
	switch next, _ := pem.Decode(rest); {
	case block == nil:
		return nil, errors.New("it is no PEM")
	case next != nil || len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("it holds more than one thing: give the root alone")
	}
	return block, nil
}

// pkcs8 returns an ECDSA key in the form that managers take.
func pkcs8(block *pem.Block) ([]byte, error) {
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("it is no ECDSA key that can be read; an encrypted one is to be decrypted first")
		}
		return x509.MarshalPKCS8PrivateKey(key)
	case "PRIVATE KEY":
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("it is no key that can be read")
		}
		if _, ok := key.(*ecdsa.PrivateKey); !ok {
			return nil, errors.New("an ECDSA key is needed")
		}
		return block.Bytes, nil
	}
	return nil, fmt.Errorf("a private key is needed, and it holds a %q", block.Type)
}

// run asks for what is wanted, and follows it to its end.
func (o *caOrder) run(ctx context.Context, _ *cli.Context, api *conn.Conn, limit time.Duration) error {
	v, joined, err := o.order(ctx, api, limit)
	if err != nil {
		return err
	}
	f := newFollower(api, o, v.GetRotation().GetId(), limit)
	if o.rotate == nil && o.abort == nil {
		return f.show(v)
	}
	if joined && !o.json {
		api.Streams().Note("a rotation of the root is under way already, asked for by %s; joining it", v.GetRotation().GetBy())
	}
	if o.detach {
		return f.detached(v)
	}
	api.Background("ctl swarm ca")
	if v.GetRotation() == nil { // it was over before it could be shown
		f.id = v.GetLast().GetId()
	}
	return f.run(ctx)
}

// order makes the one call; limit bounds it.
func (o *caOrder) order(ctx context.Context, api *conn.Conn, limit time.Duration) (v *controlv1.RootView, joined bool, err error) {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	switch {
	case o.abort != nil:
		resp, err := conn.Change(ctx, api, controlv1.ControlClient.AbortRootRotation, o.abort)
		return resp.GetRoot(), false, err
	case o.rotate != nil:
		resp, err := conn.Change(ctx, api, controlv1.ControlClient.RotateRoot, o.rotate)
		return resp.GetRoot(), resp.GetJoined(), err
	}
	resp, err := conn.Read(ctx, api, controlv1.ControlClient.GetRoot, &controlv1.GetRootRequest{})
	return resp.GetRoot(), false, err
}
