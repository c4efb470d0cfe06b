package sandbox

import (
	"crypto/rand"
	"strings"
)

// MaxGeneratedName keeps generated names short enough to become host names in the newer generations.
const MaxGeneratedName = 19

var (
	adjectives = strings.Fields(`able amber ample apt blue bold brave brief bright brisk calm civil clear clever cool
		crisp deft dry eager early easy even fair fast fine firm fond free fresh full gentle glad golden good grand
		great green happy hardy honest humble ideal jolly just keen kind large late lean light lively long loyal
		lucid lucky merry mild neat new nimble noble open plain proud pure quick quiet rapid ready rich ripe royal
		safe sharp shiny short silent simple smart smooth snug sober solid sound stable steady still strong sunny
		sure sweet swift tall tame tidy true vast vivid warm wide wise witty young`)
	nouns = strings.Fields(`anchor arch badger barn basin bay beacon beaver bell birch bird bishop bridge brook
		cabin canal canyon castle cedar cliff cloud clover comet coral cove crane creek crow delta dome dove dune
		eagle elm falcon fern field finch fjord flame forest fort fox garden gate glade glen grove gull harbor
		hare hawk heath heron hill horn island ivy jay keep kettle kite lake lantern lark leaf ledge lily lion
		lodge lynx maple marsh meadow mill moat moon moss oak orchard otter owl palm path peak pearl pebble pine
		plain pond quarry quay raven reef ridge river robin rose sail shore sparrow spring spruce star stone
		stream swan thistle tower trail tulip valley vault wall wharf willow wolf wren`)
)

// generateName returns a name of two lower-case words that no sandbox of the workspace has, as far as can be told
// before the write decides. After a few tries it adds letters, since the words allow some ten thousand names.
func (s *Service) generateName(workspace string) string {
	for range 8 {
		name := word(adjectives) + "-" + word(nouns)
		if len(name) > MaxGeneratedName {
			continue
		}
		if _, err := s.Store.ByName(Kind, workspace, name); err != nil {
			return name
		}
	}
	return letters(9) + "-" + letters(9)
}

func word(list []string) string { return list[random(len(list))] }

func letters(n int) string {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte('a' + random(26))
	}
	return string(out)
}

// random returns a number below n, which is far below 65,536, so that the bias of the remainder does not matter.
func random(n int) int {
	var b [2]byte
	rand.Read(b[:])
	return (int(b[0])<<8 | int(b[1])) % n
}
