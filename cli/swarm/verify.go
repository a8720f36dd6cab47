package swarm

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/manager/backup"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func verify(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "restore a backup in memory and show what would come up; no daemon is asked",
		ArgsUsage: "FILE|-",
		Flags:     openFlags(),
		Action: func(c *cli.Context) error {
			file, err := openBackup(c.Context, s, c)
			if err != nil {
				return err
			}
			im, err := backup.Read(file)
			if err := errors.Join(err, file.Close()); err != nil {
				return err
			}
			if err := preview(s.Out, im.Preview()); err != nil {
				return err
			}
			var faults []error
			for _, f := range im.Check(s.Now()) {
				faults = append(faults, errors.New(f))
			}
			if len(faults) > 0 {
				return errors.Join(faults...)
			}
			return s.Data("\nThe backup is whole: this swarm comes up from it.")
		},
	}
}

var (
	savedNodes = show.Table{
		Columns: []show.Column{{Field: "ID", Header: "ID"}, {Field: "Hostname", Header: "HOSTNAME"}, {Field: "Availability", Header: "AVAILABILITY"},
			{Field: "Manager", Header: "MANAGER"}, {Field: "Tasks", Header: "TASKS"}},
		Default: []show.Cell{{Text: "{{.ID}}"}, {Text: "{{.Hostname}}"}, {Text: "{{.Availability}}"}, {Text: "{{.Manager}}"}, {Text: "{{.Tasks}}"}},
	}
	savedServices = show.Table{
		Columns: []show.Column{{Field: "ID", Header: "ID"}, {Field: "Name", Header: "NAME"}, {Field: "Mode", Header: "MODE"},
			{Field: "Replicas", Header: "REPLICAS"}, {Field: "Image", Header: "IMAGE"}},
		Default: []show.Cell{{Text: "{{.ID}}"}, {Text: "{{.Name}}"}, {Text: "{{.Mode}}"}, {Text: "{{.Replicas}}"}, {Text: "{{.Image}}"}},
	}
)

// preview prints what would come up.
func preview(w io.Writer, p backup.Preview) error {
	m := p.Manifest
	asked := ""
	if m.GetStale() {
		asked = ", without asking the other managers"
	}
	_, err := fmt.Fprintf(w, `Swarm:       %s
Saved:       %s by node %s, version %s%s
State:       index %d of history %s, last changed %s
Root:        valid until %s
Join tokens: %s

`, show.ID(m.GetCluster()), moment(m.GetMadeAt()), show.ShortID(m.GetMadeBy()), m.GetVersion(), asked,
		m.GetIndex(), show.ShortID(m.GetHistory()), moment(m.GetLogTime()), p.RootNotAfter.UTC().Format(time.RFC3339), tokens(p))
	if err != nil {
		return err
	}
	var nodes, services []show.Row
	for _, n := range p.Nodes {
		nodes = append(nodes, show.Row{
			"ID": show.ID(n.ID), "Hostname": n.Hostname, "Availability": availabilityWord(n.Availability), "Manager": n.Manager, "Tasks": n.Tasks,
		})
	}
	for _, v := range p.Services {
		mode, replicas := "replicated", fmt.Sprintf("%d/%d", v.Running, v.Replicas)
		if v.Global {
			mode, replicas = "global", fmt.Sprint(v.Running)
		}
		services = append(services, show.Row{
			"ID": show.ShortID(v.ID), "Name": v.Name, "Mode": mode, "Replicas": replicas, "Image": show.Image(v.Image, false),
		})
	}
	if err := savedNodes.Print(w, show.Look{}, nodes); err != nil {
		return err
	}
	if len(services) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return savedServices.Print(w, show.Look{}, services)
}

func tokens(p backup.Preview) string {
	var of []string
	if p.WorkerToken {
		of = append(of, "worker")
	}
	if p.ManagerToken {
		of = append(of, "manager")
	}
	if len(of) == 0 {
		return "none"
	}
	return strings.Join(of, " and ")
}

func availabilityWord(a modelv1.Availability) string {
	if a == modelv1.Availability_AVAILABILITY_UNSPECIFIED {
		a = modelv1.Availability_AVAILABILITY_ACTIVE
	}
	return show.Title(strings.ToLower(strings.TrimPrefix(a.String(), "AVAILABILITY_")))
}
