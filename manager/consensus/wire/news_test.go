package wire

import (
	"errors"
	"fmt"
	"testing"
)

func TestAPeerThatStaysAwayIsNewsOnceForEachReason(t *testing.T) {
	t.Parallel()
	n, said := news{}, 0
	for port := range 100 {
		for _, err := range []error{
			fmt.Errorf("write tcp 10.0.0.1:%d->10.0.0.2:2377: broken pipe", 40000+port),
			fmt.Errorf("the clock here says 12:46:%02d", port%60),
		} {
			if n.fresh(err) {
				said++
			}
		}
	}
	if said != 2 {
		t.Errorf("two reasons, again and again, were said %d times", said)
	}
	for c := range rune(26) {
		if n.fresh(errors.New(string('a' + c))) {
			said++
		}
	}
	if said != kindsSaid {
		t.Errorf("said %d times in all, want %d at most", said, kindsSaid)
	}
}
