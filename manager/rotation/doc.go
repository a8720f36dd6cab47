// Package rotation rotates the root of a cluster: it says which step is next and
// who has not followed.
//
// The steps are entries of the cluster's record, so that a new leader goes on where
// the last one was. Trust: the next root is made, certified by the present one, and
// given to every node to trust; the present one signs. Renew: the next one signs,
// and each leaf goes with the certificate by which the former one leads to it, so
// that a node that was away verifies it; nodes renew. Then the former root is
// dropped: certificates of it count no more. Join tokens that pin it go on, for its
// certificate still goes with managers' leaves; nothing else is left of it, its key
// least of all. Aborted, the same is done the other way round (Back).
//
// Who has followed is judged by what managers saw: the generation of the
// certificate that a node showed when it opened its newest session. That it took
// the roots to trust is its own word, and costs nobody but itself if it is wrong.
//
// It does not sign (ca/issue does), make keys (ca/authority does), serve calls
// (manager/control does) or tell nodes (manager/dispatch does).
//
// Invariants: no root signs before all that are in contact have been given it to
// trust, or had the time to take it; while a rotation lasts the root of before is
// trusted; a key is forgotten in the entry that drops its root.
package rotation
