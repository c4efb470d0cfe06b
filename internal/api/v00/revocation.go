package v00

// revocationHandler revokes and restores identities.
type revocationHandler struct {
	svc Services
}
