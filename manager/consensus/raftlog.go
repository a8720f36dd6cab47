package consensus

import (
	"context"
	"fmt"
	"log/slog"
)

// raftLog gives raft's own words to slog, one level lower than raft rates them:
// what concerns an operator, this package says itself.
type raftLog struct{ log *slog.Logger }

func (l raftLog) say(level slog.Level, text func() string) {
	if l.log.Enabled(context.Background(), level) {
		l.log.LogAttrs(context.Background(), level, "raft says", slog.String("text", text()))
	}
}

func (l raftLog) Debug(...any)          {}
func (l raftLog) Debugf(string, ...any) {}
func (l raftLog) Info(v ...any)         { l.say(slog.LevelDebug, func() string { return fmt.Sprint(v...) }) }
func (l raftLog) Infof(f string, v ...any) {
	l.say(slog.LevelDebug, func() string { return fmt.Sprintf(f, v...) })
}
func (l raftLog) Warning(v ...any) { l.say(slog.LevelDebug, func() string { return fmt.Sprint(v...) }) }
func (l raftLog) Warningf(f string, v ...any) {
	l.say(slog.LevelDebug, func() string { return fmt.Sprintf(f, v...) })
}
func (l raftLog) Error(v ...any) { l.say(slog.LevelInfo, func() string { return fmt.Sprint(v...) }) }
func (l raftLog) Errorf(f string, v ...any) {
	l.say(slog.LevelInfo, func() string { return fmt.Sprintf(f, v...) })
}
func (l raftLog) Fatal(v ...any)            { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLog) Fatalf(f string, v ...any) { panic("raft: " + fmt.Sprintf(f, v...)) }
func (l raftLog) Panic(v ...any)            { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLog) Panicf(f string, v ...any) { panic("raft: " + fmt.Sprintf(f, v...)) }
