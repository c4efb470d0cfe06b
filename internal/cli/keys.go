package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/internal/cli/output"
)

// keysView is what the ring of sandbox keys looks like after a rotation.
type keysView struct {
	KeyID           string   `json:"key_id"`
	VerifyingKeyIDs []string `json:"verifying_key_ids"`
}

func (a *app) keysCommand() *cobra.Command {
	return group("keys", "Look after the keys that sign sandbox tokens", nil, &cobra.Command{
		Use: "rotate", Short: "Sign sandbox tokens with a new key (administrators only)", Args: cobra.NoArgs,
		Long: "Sign sandbox tokens with a new key from now on. Tokens of older keys stay good until they expire, so that no\n" +
			"sandbox is lost; each gets a token of the new key when its supervisor renews the old one.",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := sallyportpb.NewGatewayClient(s.conn).RotateSandboxKeys(c.Context(), &sallyportpb.RotateSandboxKeysRequest{})
				if err != nil {
					return err
				}
				v := keysView{resp.GetKeyId(), append([]string{}, resp.GetVerifyingKeyIds()...)}
				if a.out.Structured() {
					return a.out.Value(v)
				}
				a.out.Pairs([]output.Pair{
					{Key: "Signing key", Value: v.KeyID},
					{Key: "Verifying keys", Value: strings.Join(v.VerifyingKeyIDs, ", ")},
				})
				return nil
			})
		},
	})
}
