// Package witness sees what leaves no trace in the state and belongs in the audit
// trail: what was refused, and what secrets were shown. It says, too, who makes a
// call, for what does leave one.
//
// It owns what is alike and told as one, how much is told, and the way to the
// leader, who writes it down. What a record says and how records are chained is
// audit's; what is refused, and why, those who refuse decide.
//
// Invariants: who calls never waits for it; however many are refused, by however
// many, what is kept here and what is told is bounded, and what is not told one by
// one is counted; nothing is told before it was seen, and what was seen is told at
// least once while some manager leads and this one lives.
package witness
