package dev

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// stepTimeout bounds one step of the demo.
const stepTimeout = time.Minute

// result is one step of the demo as `-o json` prints it, one line a step.
type result struct {
	Name         string `json:"name"`
	OK           bool   `json:"ok"`
	Milliseconds int64  `json:"milliseconds"`
	Detail       string `json:"detail"`
}

// reporter runs steps and prints their outcome.
type reporter struct {
	out    io.Writer
	json   bool
	failed bool
}

// step runs one step and prints it; it tells whether the step succeeded.
func (r *reporter) step(ctx context.Context, name string, run func(context.Context) (string, error)) bool {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	begin := time.Now()
	detail, err := run(ctx)
	res := result{Name: name, OK: err == nil, Milliseconds: time.Since(begin).Milliseconds(), Detail: detail}
	if err != nil {
		res.Detail = err.Error()
		r.failed = true
	}
	r.print(res)
	return res.OK
}

func (r *reporter) print(res result) {
	if r.json {
		line, err := json.Marshal(res)
		if err != nil {
			line = fmt.Appendf(nil, `{"name":"report","ok":false,"milliseconds":0,"detail":%q}`, err)
		}
		fmt.Fprintf(r.out, "%s\n", line)
		return
	}
	mark := "ok  "
	if !res.OK {
		mark = "FAIL"
	}
	fmt.Fprintf(r.out, "%s %6d ms  %s\n", mark, res.Milliseconds, res.Name)
	if res.Detail != "" {
		fmt.Fprintf(r.out, "                %s\n", res.Detail)
	}
}
