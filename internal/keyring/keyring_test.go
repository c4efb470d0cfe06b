package keyring_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/keyring"
)

func key(b byte) []byte { return bytes.Repeat([]byte{b}, keyring.KeySize) }

func TestParse(t *testing.T) {
	t.Parallel()
	a, b := base64.StdEncoding.EncodeToString(key(0xff)), base64.StdEncoding.EncodeToString(key(2))
	for text, want := range map[string]keyring.Ring{
		a:                                     {key(0xff)},
		a + "\n":                              {key(0xff)},
		strings.TrimRight(a, "="):             {key(0xff)},
		strings.ReplaceAll(a, "/", "_"):       {key(0xff)},
		a + "," + b:                           {key(0xff), key(2)},
		"# new\n" + b + "\n# old\r\n" + a:     {key(2), key(0xff)},
		" \t" + a + " , \n" + b + "\n\n":      {key(0xff), key(2)},
		string(keyring.Ring{key(1)}.Format()): {key(1)},
		string(keyring.Ring{key(1), key(2)}.Format()): {key(1), key(2)},
	} {
		got, err := keyring.Parse([]byte(text))
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %d keys, %v", text, len(got), err)
		}
	}
	for text, want := range map[string]string{
		"": "no key", "# only this": "no key", a[:20]: "bytes", "secret words": "not base64", a + a: "not base64", a + "\n" + a: "twice",
		strings.Repeat("A", 43) + "=": "", strings.Repeat("A", 42) + "B=": "not base64",
	} {
		_, err := keyring.Parse([]byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), a[:8])) {
			t.Errorf("the error tells the key: %v", err)
		}
	}
	many := keyring.Ring{}
	for n := range keyring.MaxKeys + 1 {
		many = append(many, key(byte(n)))
	}
	if _, err := keyring.Parse(many.Format()); err == nil {
		t.Error("too many keys were read")
	}
	if ring, err := keyring.ParseFile(key(7)); err != nil || len(ring) != 1 || !bytes.Equal(ring[0], key(7)) {
		t.Errorf("plain bytes: %v", err)
	}
}

func TestRing(t *testing.T) {
	t.Parallel()
	ring := keyring.Ring{key(1)}.With(key(2), key(1), key(3))
	if fmt.Sprint(ring) != fmt.Sprint(keyring.Ring{key(1), key(2), key(3)}) {
		t.Error("wrong ring")
	}
	if id := keyring.ID(key(1)); len(id) != 16 || id == keyring.ID(key(2)) || id != keyring.ID(key(1)) {
		t.Errorf("id %q", id)
	}
	if a, b := keyring.New(), keyring.New(); len(a) != keyring.KeySize || bytes.Equal(a, b) {
		t.Error("keys are not random")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(base64.StdEncoding.EncodeToString(key(1))))
	f.Add([]byte("# x\n,,"))
	f.Add(key(3))
	f.Fuzz(func(t *testing.T, data []byte) {
		ring, err := keyring.ParseFile(data)
		if err != nil {
			return
		}
		again, err := keyring.Parse(ring.Format())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(ring) {
			t.Errorf("%q does not come back: %v", data, err)
		}
	})
}
