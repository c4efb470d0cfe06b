package driver

import (
	"context"
	"time"
)

// State is how a driver's connection fares right now.
type State struct {
	// Connected tells whether the driver is connected, Suspended whether calls are held back because it does not answer.
	Connected, Suspended bool
	// Connections counts how often it was connected.
	Connections int
	// Running and Waiting are the calls that are with the driver and those that wait for a place.
	Running, Waiting int
}

// State returns how the connection fares.
func (c *Conn) State() State {
	_, suspended := c.breaker.open(time.Now())
	c.mu.Lock()
	defer c.mu.Unlock()
	return State{
		Connected: c.ready, Suspended: suspended, Connections: c.connections, Running: len(c.slots), Waiting: c.queued,
	}
}

// Tracer follows one call to the driver named so. It returns the context to make the call with, which may
// carry metadata for the driver, and a function that is called once with the outcome, or nil where nobody follows.
type Tracer func(ctx context.Context, driver, method string) (context.Context, func(error))
