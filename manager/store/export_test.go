package store

// Lines is how many lines there are.
func (db *DB) Lines() int {
	db.lines.mu.Lock()
	defer db.lines.mu.Unlock()
	return len(db.lines.by)
}
