package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// timeLayout has one width, so that times of lines compare as text.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// signingContext keeps a checkpoint's signature from meaning anything elsewhere.
const signingContext = "sallyport audit checkpoint 1\n"

var (
	recordHead     = []byte(`{"seq":`)
	checkpointHead = []byte(`{"checkpoint":`)

	errLine = errors.New("the line is not one of an audit log")
)

// checkpoint says, signed, that the chain up to a record is as it was written.
type checkpoint struct {
	sequence  uint64
	time      time.Time
	hash      [32]byte
	key       string
	signature []byte
}

// appendRecord appends r's line, sets its hash, and returns the line. r has been cleaned. The hash is SHA-256 over all
// of the line before `,"hash":`, so that it can be checked with nothing but a text tool.
func appendRecord(b []byte, r *Record) []byte {
	start := len(b)
	b = append(b, recordHead...)
	b = strconv.AppendUint(b, r.Sequence, 10)
	b = append(b, `,"time":"`...)
	b = r.Time.AppendFormat(b, timeLayout)
	b = append(b, '"')
	b = appendField(b, `,"actor":`, r.Actor)
	b = appendField(b, `,"actor_kind":`, r.ActorKind)
	b = appendField(b, `,"tenant":`, r.Tenant)
	b = appendField(b, `,"action":`, r.Action)
	b = appendField(b, `,"target":`, r.Target)
	b = appendField(b, `,"verdict":`, r.Verdict)
	b = appendField(b, `,"reason":`, r.Reason)
	b = appendField(b, `,"request_id":`, r.RequestID)
	b = appendField(b, `,"remote":`, r.Remote)
	b = append(b, `,"details":{`...)
	if len(r.Details) > 0 {
		var room [maxDetails]string
		for i, k := range sortedKeys(room[:0], r.Details) {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendText(b, k)
			b = append(b, ':')
			b = appendText(b, r.Details[k])
		}
	}
	b = append(b, `},"prev":"`...)
	b = hex.AppendEncode(b, r.Prev[:])
	b = append(b, '"')
	r.Hash = sha256.Sum256(b[start:])
	b = append(b, `,"hash":"`...)
	b = hex.AppendEncode(b, r.Hash[:])
	return append(b, "\"}\n"...)
}

// appendCheckpoint appends the line of c, which key signs.
func appendCheckpoint(b []byte, c *checkpoint, key ed25519.PrivateKey) []byte {
	start := len(b)
	b = appendUnsigned(b, c)
	c.signature = ed25519.Sign(key, append([]byte(signingContext), b[start:]...))
	return appendSignature(b, c)
}

func appendUnsigned(b []byte, c *checkpoint) []byte {
	b = append(b, checkpointHead...)
	b = strconv.AppendUint(b, c.sequence, 10)
	b = append(b, `,"time":"`...)
	b = c.time.AppendFormat(b, timeLayout)
	b = append(b, `","hash":"`...)
	b = hex.AppendEncode(b, c.hash[:])
	b = append(b, '"')
	return appendField(b, `,"key":`, c.key)
}

func appendSignature(b []byte, c *checkpoint) []byte {
	b = append(b, `,"signature":"`...)
	b = hex.AppendEncode(b, c.signature)
	return append(b, "\"}\n"...)
}

// verify tells whether key signed c.
func (c *checkpoint) verify(key ed25519.PublicKey) bool {
	return ed25519.Verify(key, appendUnsigned([]byte(signingContext), c), c.signature)
}

// sortedKeys appends the keys of m to keys, sorted.
func sortedKeys(keys []string, m map[string]string) []string {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func appendField(b []byte, name, value string) []byte { return appendText(append(b, name...), value) }

// appendText writes a JSON string. Control characters, the only others that need an escape, have been removed.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if c := s[i]; c == '"' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

// parseRecord reads a record's line, without its newline, and checks the record's own hash. It takes exactly what
// appendRecord writes and nothing else, so that a line has one reading. A record that is not whole in this sense is
// returned as far as its sequence and hash could be read, together with the error.
func parseRecord(line []byte) (Record, error) {
	var r Record
	p := parser{rest: line}
	p.expect(`{"seq":`)
	r.Sequence = p.number()
	r.Time = p.time(`,"time":"`)
	for _, f := range []struct {
		name  string
		value *string
	}{
		{`,"actor":`, &r.Actor},
		{`,"actor_kind":`, &r.ActorKind},
		{`,"tenant":`, &r.Tenant},
		{`,"action":`, &r.Action},
		{`,"target":`, &r.Target},
		{`,"verdict":`, &r.Verdict},
		{`,"reason":`, &r.Reason},
		{`,"request_id":`, &r.RequestID},
		{`,"remote":`, &r.Remote},
	} {
		p.expect(f.name)
		*f.value = p.text()
	}
	p.expect(`,"details":{`)
	r.Details = p.details()
	p.expect(`},"prev":"`)
	p.hex(r.Prev[:])
	p.expect(`","hash":"`)
	p.hex(r.Hash[:])
	p.expect(`"}`)
	if p.failed || len(p.rest) > 0 {
		return r, errLine
	}
	stated := r.Hash
	again := appendRecord(make([]byte, 0, len(line)+1), &r)
	computed := r.Hash
	r.Hash = stated
	// The hash and the two characters after it end the line.
	body := len(line) - hex.EncodedLen(len(stated)) - 2
	switch {
	case len(again) != len(line)+1 || !bytes.Equal(again[:body], line[:body]):
		return r, errLine
	case computed != stated:
		return r, fmt.Errorf("record %d was altered: its hash does not match its content", r.Sequence)
	case !bytes.Equal(again[:len(line)], line):
		return r, errLine
	}
	return r, nil
}

// parseCheckpoint reads a checkpoint's line, without its newline. It does not check the signature.
func parseCheckpoint(line []byte) (*checkpoint, error) {
	c := &checkpoint{}
	p := parser{rest: line}
	p.expect(`{"checkpoint":`)
	c.sequence = p.number()
	c.time = p.time(`,"time":"`)
	p.expect(`,"hash":"`)
	p.hex(c.hash[:])
	p.expect(`","key":`)
	c.key = p.text()
	c.signature = make([]byte, ed25519.SignatureSize)
	p.expect(`,"signature":"`)
	p.hex(c.signature)
	p.expect(`"}`)
	if p.failed || len(p.rest) > 0 || !bytes.Equal(appendSignature(appendUnsigned(nil, c), c), append(slices.Clip(line), '\n')) {
		return nil, errLine
	}
	return c, nil
}

// parser reads the parts of a line in their order. After the first part that does not fit, everything fails.
type parser struct {
	rest   []byte
	failed bool
}

func (p *parser) expect(literal string) {
	if p.failed || len(p.rest) < len(literal) || string(p.rest[:len(literal)]) != literal {
		p.failed = true
		return
	}
	p.rest = p.rest[len(literal):]
}

func (p *parser) number() uint64 {
	n := 0
	for n < len(p.rest) && n < 20 && p.rest[n] >= '0' && p.rest[n] <= '9' {
		n++
	}
	v, err := strconv.ParseUint(string(p.rest[:n]), 10, 64)
	if p.failed || err != nil {
		p.failed = true
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

func (p *parser) time(name string) time.Time {
	p.expect(name)
	if p.failed || len(p.rest) <= len(timeLayout) || p.rest[len(timeLayout)] != '"' {
		p.failed = true
		return time.Time{}
	}
	t, err := time.Parse(timeLayout, string(p.rest[:len(timeLayout)]))
	if err != nil {
		p.failed = true
		return time.Time{}
	}
	p.rest = p.rest[len(timeLayout)+1:]
	return t
}

// text reads a JSON string. That only those escapes occur that appendText writes is checked by writing it again.
func (p *parser) text() string {
	p.expect(`"`)
	if p.failed {
		return ""
	}
	plain := true
	for i := 0; i < len(p.rest); i++ {
		switch p.rest[i] {
		case '\\':
			plain = false
			i++
		case '"':
			raw := p.rest[:i]
			p.rest = p.rest[i+1:]
			if plain {
				return string(raw)
			}
			return unescape(raw)
		}
	}
	p.failed = true
	return ""
}

func unescape(raw []byte) string {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] == '\\' {
			i++
		}
		out = append(out, raw[i])
	}
	return string(out)
}

func (p *parser) details() map[string]string {
	if p.failed || len(p.rest) == 0 || p.rest[0] == '}' {
		return nil
	}
	out := map[string]string{}
	for len(out) < maxDetails {
		k := p.text()
		p.expect(":")
		out[k] = p.text()
		if p.failed || len(p.rest) == 0 || p.rest[0] != ',' {
			return out
		}
		p.rest = p.rest[1:]
	}
	p.failed = true
	return nil
}

func (p *parser) hex(into []byte) {
	n := hex.EncodedLen(len(into))
	if p.failed || len(p.rest) < n {
		p.failed = true
		return
	}
	if _, err := hex.Decode(into, p.rest[:n]); err != nil {
		p.failed = true
		return
	}
	p.rest = p.rest[n:]
}
