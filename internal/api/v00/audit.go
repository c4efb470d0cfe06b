package v00

// auditHandler serves searches of the audit log.
type auditHandler struct {
	svc Services
}
