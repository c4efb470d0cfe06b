package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
)

const (
	// maxUnanswered is how many calls of one connection may be under way: as many as the gateway lets a connection have.
	maxUnanswered = 256
	// sendEvery is how often calls that are due are sent, together.
	sendEvery = time.Millisecond
)

// hose is a connection that sends calls without waiting for answers. It writes the frames itself: a whole gRPC client
// costs as much as the gateway does, and an attacker's processor is not the gateway's. It sends little and sends it to a
// server with large windows, so that it looks at no window of its own.
type hose struct {
	conn   net.Conn
	out    *bufio.Writer
	framer *http2.Framer
	// writing guards framer and out, which answers to pings use, too.
	writing sync.Mutex
	headers bytes.Buffer
	encoder *hpack.Encoder
	next    uint32
	body    []byte

	unanswered atomic.Int64
	refused    atomic.Int64
	// offered are the calls that were due, whether or not the server left a stream for them.
	offered atomic.Int64
}

// newHose connects to a plaintext server. Every call sends message.
func newHose(ctx context.Context, address string, message []byte) (*hose, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	h := &hose{conn: conn, out: bufio.NewWriterSize(conn, 32<<10), next: 1}
	h.framer = http2.NewFramer(h.out, bufio.NewReaderSize(conn, 32<<10))
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.encoder = hpack.NewEncoder(&h.headers)
	h.body = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	_, err = h.out.WriteString(http2.ClientPreface)
	if err = errors.Join(err, h.framer.WriteSettings(), h.out.Flush()); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return h, nil
}

// spray sends calls at a rate until over, or an error. What cannot be sent in time is left out.
func (h *hose) spray(perSecond float64, m method, token func() string, over func() bool) error {
	ticker := time.NewTicker(sendEvery)
	defer ticker.Stop()
	last, due := time.Now(), 0.0
	for !over() {
		now := <-ticker.C
		due = min(due+now.Sub(last).Seconds()*perSecond, perSecond*10*sendEvery.Seconds())
		last = now
		h.writing.Lock()
		var err error
		for ; due >= 1 && err == nil; due-- {
			h.offered.Add(1)
			if h.unanswered.Load() < maxUnanswered {
				err = h.send(m, token())
			}
		}
		err = errors.Join(err, h.out.Flush())
		h.writing.Unlock()
		if err != nil {
			return fmt.Errorf("flood: %w", err)
		}
	}
	return nil
}

// send writes one call. The caller holds writing.
func (h *hose) send(m method, token string) error {
	h.headers.Reset()
	var err error
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: string(m)},
		{Name: ":authority", Value: "gateway"},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
		{Name: "authorization", Value: "Bearer " + token, Sensitive: true},
	} {
		err = errors.Join(err, h.encoder.WriteField(f))
	}
	id := h.next
	h.next += 2
	h.unanswered.Add(1)
	return errors.Join(err,
		h.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: h.headers.Bytes(), EndHeaders: true}),
		h.framer.WriteData(id, true, h.body))
}

// drain reads answers until the connection is closed, which is no error. Every call must be refused.
func (h *hose) drain() error {
	for {
		frame, err := h.framer.ReadFrame()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read an answer of the flood: %w", err)
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = h.answer(h.framer.WriteSettingsAck)
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = h.answer(func() error { return h.framer.WritePing(true, f.Data) })
			}
		case *http2.MetaHeadersFrame:
			if f.StreamEnded() {
				h.unanswered.Add(-1)
				err = h.judge(f)
			}
		case *http2.RSTStreamFrame:
			h.unanswered.Add(-1)
			h.refused.Add(1)
		case *http2.GoAwayFrame:
			err = fmt.Errorf("the server sent the flood away: %s %s", f.ErrCode, f.DebugData())
		}
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (h *hose) answer(write func() error) error {
	h.writing.Lock()
	defer h.writing.Unlock()
	return errors.Join(write(), h.out.Flush())
}

// judge reads the status of an answer.
func (h *hose) judge(f *http2.MetaHeadersFrame) error {
	for _, field := range f.Fields {
		if field.Name != "grpc-status" {
			continue
		}
		n, err := strconv.ParseUint(field.Value, 10, 8)
		switch code := codes.Code(n); {
		case err != nil:
			return fmt.Errorf("status of an answer: %w", err)
		case code == codes.Unauthenticated || code == codes.ResourceExhausted || code == codes.Unavailable:
			h.refused.Add(1)
			return nil
		default:
			return fmt.Errorf("a token of an unknown key was answered with %s", code)
		}
	}
	return errors.New("an answer without status")
}
