package v00

// keysHandler manages the keys of sandbox tokens.
type keysHandler struct {
	svc Services
}
