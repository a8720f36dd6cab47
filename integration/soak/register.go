package main

import (
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// checkTime bounds the search for an order; a history of a register's half
// minute takes milliseconds.
const checkTime = 2 * time.Minute

// registers is the model: each key a register of its own, empty at first.
var registers = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		var keys []string
		for _, o := range all {
			key := o.Input.(op).Key
			if by[key] == nil {
				keys = append(keys, key)
			}
			by[key] = append(by[key], o)
		}
		var parts [][]porcupine.Operation
		for _, key := range keys {
			parts = append(parts, by[key])
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		o := input.(op)
		if o.Write {
			return true, o.Value
		}
		return o.Value == state.(string), state
	},
	DescribeOperation: func(input, _ any) string {
		o := input.(op)
		switch {
		case o.Unknown:
			return fmt.Sprintf("%s = %s ?", o.Key, o.Value)
		case o.Write:
			return fmt.Sprintf("%s = %s", o.Key, o.Value)
		}
		return fmt.Sprintf("%s is %q", o.Key, o.Value)
	},
}

// checkRegisters says whether there is one order of all that clients did, in
// which each read finds the last write. What porcupine found is written to the
// file page if there is none.
func checkRegisters(h history, page string) error {
	result, info := porcupine.CheckOperationsVerbose(registers, operations(h.ops), checkTime)
	switch result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("registers: no verdict within %v", checkTime)
	}
	if err := porcupine.VisualizePath(registers, info, page); err != nil {
		return fmt.Errorf("registers: there is no order that explains what clients saw, and no picture: %w", err)
	}
	return fmt.Errorf("registers: there is no order that explains what clients saw; see %s", page)
}

// operations leaves out the writes without an outcome that nobody ever read: as
// no value is written twice, they can as well not have happened, and each costs
// the search dear. A write that was read and has no outcome is open to the end.
func operations(ops []op) []porcupine.Operation {
	type value struct{ key, value string }
	read := map[value]bool{}
	for _, o := range ops {
		if !o.Write {
			read[value{o.Key, o.Value}] = true
		}
	}
	var all []porcupine.Operation
	for _, o := range ops {
		if o.Unknown && !read[value{o.Key, o.Value}] {
			continue
		}
		p := porcupine.Operation{ClientId: o.Client, Input: o, Call: o.Call, Return: o.Return}
		if o.Unknown {
			p.Return = math.MaxInt64
		}
		all = append(all, p)
	}
	return all
}
