package v00

// accessHandler explains authentication and authorization.
type accessHandler struct {
	svc Services
}
