package claims_test

import (
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4/json"
	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/authn/claims"
)

func decode(tb testing.TB, document string) map[string]any {
	tb.Helper()
	var decoded map[string]any
	if err := json.Unmarshal([]byte(document), &decoded); err != nil {
		tb.Fatal(err)
	}
	return decoded
}

func path(tb testing.TB, text string) claims.Path {
	tb.Helper()
	p, err := claims.ParsePath(text)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestFind(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, path, document string
		want                 any // nil: not found
	}{
		{"top", "a", `{"a":"x"}`, "x"},
		{"nested", "a.b.c", `{"a":{"b":{"c":"x"}}}`, "x"},
		{"absent", "a.b", `{"a":{}}`, nil},
		{"null", "a", `{"a":null}`, nil},
		{"through a string", "a.b", `{"a":"b"}`, nil},
		{"through a list", "a.b", `{"a":[{"b":"x"}]}`, nil},
		{"name of dots", "https://x.test/roles", `{"https://x.test/roles":"x"}`, "x"},
		{"longer name wins", "a.b", `{"a.b":"long","a":{"b":"short"}}`, "long"},
		{"longer name that leads nowhere", "a.b.c", `{"a.b":{},"a":{"b.c":"x"}}`, "x"},
		{"dots in the middle", "r.my.app.roles", `{"r":{"my.app":{"roles":"x"}}}`, "x"},
		{"unquoted name with dots", "kubernetes.io.namespace", `{"kubernetes.io":{"namespace":"x"}}`, "x"},
		{"quoted", `"kubernetes.io".namespace`, `{"kubernetes.io":{"namespace":"x"}}`, "x"},
		{"escaped", `kubernetes\.io.namespace`, `{"kubernetes.io":{"namespace":"x"}}`, "x"},
		{"quoted in the middle", `r."my.app".roles`, `{"r":{"my.app":{"roles":"x"}}}`, "x"},
		{"quoted does not join", `"a".b`, `{"a.b":"long","a":{"b":"short"}}`, "short"},
		{"quoted does not divide", `"a.b"`, `{"a":{"b":"short"}}`, nil},
		{"escaped does not divide", `a\.b`, `{"a":{"b":"short"}}`, nil},
		{"escaped quote", `"a\"b".c`, `{"a\"b":{"c":"x"}}`, "x"},
		{"escaped backslash", `a\\b`, `{"a\\b":"x"}`, "x"},
		{"quote within a name", `a"b`, `{"a\"b":"x"}`, "x"},
		{"only dots", "...", `{"...":"x"}`, "x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, ok := path(t, tc.path).Find(decode(t, tc.document))
			if ok != (tc.want != nil) {
				t.Fatalf("found: %v", ok)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, ok := (claims.Path{}).Find(map[string]any{"": "x"}); ok {
		t.Error("the path of nothing found something")
	}
}

func TestPathsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", `"a`, `"a"b`, `a\`, `a\x`, `\.a..b`, `"a".`, `"".a`, `."a"`, "a\nb", "a\xff", strings.Repeat("a", 513),
	} {
		if p, err := claims.ParsePath(text); err == nil {
			t.Errorf("%q was read as %+v", text, p)
		}
	}
}

func TestTexts(t *testing.T) {
	t.Parallel()
	for document, want := range map[string][]string{
		`"a b"`: {"a b"}, `["a","","b",1,null,{}]`: {"a", "b"}, `""`: nil, `1`: nil, `{"a":true}`: nil, `[]`: nil, `null`: nil,
	} {
		if diff := cmp.Diff(want, claims.Texts(decode(t, `{"c":`+document+`}`)["c"])); diff != "" {
			t.Errorf("%s (-want +got):\n%s", document, diff)
		}
	}
}

func TestHolds(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		document, value string
		want            bool
	}{
		{`"team1"`, "team1", true},
		{`"team1 team2"`, "team1", false},
		{`["team2","team1"]`, "team1", true},
		{`["team11"]`, "team1", false},
		{`[["team1"]]`, "team1", false},
		{`{"team1":true}`, "team1", false},
		{`true`, "true", true},
		{`false`, "true", false},
		{`false`, "false", true},
		{`1`, "1", false},
		{`null`, "", false},
	} {
		if got := claims.Holds(decode(t, `{"c":`+tc.document+`}`)["c"], tc.value); got != tc.want {
			t.Errorf("%s holds %q: %v", tc.document, tc.value, got)
		}
	}
}

func TestOverflown(t *testing.T) {
	t.Parallel()
	const distributed = `"_claim_names":{"groups":"src1"},"_claim_sources":{"src1":{"endpoint":"https://graph.test/x"}}`
	for _, tc := range []struct {
		name, document, path string
		want                 bool
	}{
		{"distributed", `{` + distributed + `}`, "groups", true},
		{"below", `{` + distributed + `}`, "groups.ids", true},
		{"quoted", `{` + distributed + `}`, `"groups"`, true},
		{"another claim", `{` + distributed + `}`, "roles", false},
		{"a longer name", `{` + distributed + `}`, "groups2", false},
		{"there all the same", `{"groups":["a"],` + distributed + `}`, "groups", false},
		{"flag", `{"hasgroups":true}`, "groups", true},
		{"flag as text", `{"hasgroups":"true"}`, "groups", true},
		{"flag, another claim", `{"hasgroups":true}`, "roles", false},
		{"flag off", `{"hasgroups":false}`, "groups", false},
		{"names of no use", `{"_claim_names":"groups"}`, "groups", false},
		{"merely absent", `{}`, "groups", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := claims.Overflown(decode(t, tc.document), path(t, tc.path)); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestKeep(t *testing.T) {
	t.Parallel()
	given := decode(t, `{"a":{"b":{"c":[1],"secret":2},"secret":3},"x.y":"z","secret":4,"w":{"v":{"u":5},"t":6}}`)
	paths := []claims.Path{path(t, "a.b.c"), path(t, "x.y"), path(t, "w"), path(t, "w.v.u"), path(t, "none"), {}}
	want := decode(t, `{"a":{"b":{"c":[1]}},"x.y":"z","w":{"v":{"u":5},"t":6}}`)
	kept := claims.Keep(given, paths)
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, claims.Keep(kept, paths)); diff != "" {
		t.Errorf("kept again (-want +got):\n%s", diff)
	}
	if claims.Size(given) <= claims.Size(kept) {
		t.Error("what was dropped has no size")
	}
}

// FuzzPath reads any claims with any path.
func FuzzPath(f *testing.F) {
	f.Add(`"kubernetes.io".namespace`, `{"kubernetes.io":{"namespace":"x"}}`)
	f.Add(`a\.b.c`, `{"a.b":{"c":["d"]},"_claim_names":{"a":"s"}}`)
	f.Add("a.b.c", `{"a":{"b.c":1},"a.b":{}}`)
	f.Add("...", `{"..":{"":1},"hasgroups":true}`)
	f.Fuzz(func(t *testing.T, text, document string) {
		var decoded map[string]any
		p, err := claims.ParsePath(text)
		if err != nil || len(document) > 4<<10 || json.Unmarshal([]byte(document), &decoded) != nil {
			return
		}
		value, ok := p.Find(decoded)
		if ok != (value != nil) {
			t.Fatalf("found %v, %v", value, ok)
		}
		if ok && claims.Overflown(decoded, p) {
			t.Error("a claim that is there is missing")
		}
		kept, again := p.Find(claims.Keep(decoded, []claims.Path{p}))
		if again != ok || !cmp.Equal(value, kept) {
			t.Errorf("%q of %s is %v, kept %v", text, document, value, kept)
		}
	})
}
