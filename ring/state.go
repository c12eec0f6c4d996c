//go:build !kbuscheck

package ring

// state is, for the checker of interleavings, what a Client remembers
// (state_check.go).
func (c *Client) state() uint64 { return 0 }

// state is what a draft remembers beside its message.
func (d *draft) state() uint64 { return 0 }

// state is what an Admin remembers.
func (a *Admin) state() uint64 { return 0 }

// left is what is left of a plan from step i on.
func (p *party) left(i int) uint64 { return 0 }

// state is what a party's planner remembers.
func (p *party) state() uint64 { return 0 }
