package manifest

import (
	"strconv"

	"google.golang.org/protobuf/types/known/structpb"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"sallyport.dev/sallyport/gen/v00/computepb"
)

const maxGPUs = 1024

// parseResources takes the typed resources, whatever else was asked for in the platform's own form, and GPUs.
func (p *plan) parseResources(spec *computepb.DriverSandboxSpec) error {
	r := spec.GetTemplate().GetResources()
	for _, part := range []struct {
		field, text string
		list        *corev1.ResourceList
		name        corev1.ResourceName
	}{
		{"requests.cpu", r.GetCpuRequest(), &p.resources.Requests, corev1.ResourceCPU},
		{"limits.cpu", r.GetCpuLimit(), &p.resources.Limits, corev1.ResourceCPU},
		{"requests.memory", r.GetMemoryRequest(), &p.resources.Requests, corev1.ResourceMemory},
		{"limits.memory", r.GetMemoryLimit(), &p.resources.Limits, corev1.ResourceMemory},
	} {
		if part.text == "" {
			continue
		}
		if err := ask(part.list, part.name, part.field, part.text); err != nil {
			return err
		}
	}
	raw := spec.GetTemplate().GetPlatformConfig().GetFields()["resources_raw"].GetStructValue()
	for group, value := range raw.GetFields() {
		list := &p.resources.Requests
		switch group {
		case "requests":
		case "limits":
			list = &p.resources.Limits
		default:
			return unusable("RESOURCES_INVALID", "spec.template.resources.%s: only requests and limits are known", group)
		}
		for name, amount := range value.GetStructValue().GetFields() {
			text, ok := quantityText(amount)
			if !ok || !validKey(name) {
				return unusable("RESOURCES_INVALID", "spec.template.resources.%s: %q needs an amount such as \"2\" or \"512Mi\"", group, name)
			}
			if err := ask(list, corev1.ResourceName(name), group+"."+name, text); err != nil {
				return err
			}
		}
	}
	if err := p.parseGPU(spec); err != nil {
		return err
	}
	return p.checkRequests()
}

// checkRequests refuses a request above its limit, which the API server would refuse with more words.
func (p *plan) checkRequests() error {
	for name, request := range p.resources.Requests {
		if limit, ok := p.resources.Limits[name]; ok && request.Cmp(limit) > 0 {
			return unusable("RESOURCES_INVALID", "spec.template.resources: the request of %s for %s is above the limit of %s", request.String(), name, limit.String())
		}
	}
	return nil
}

func (p *plan) parseGPU(spec *computepb.DriverSandboxSpec) error {
	if spec.GetGpuDevice() != "" {
		return unusable("GPU_DEVICE_UNSUPPORTED", "spec.gpu_device: Kubernetes chooses the GPU itself").
			WithNext("ask for a number of GPUs, and use spec.template.driver_config.node_selector to choose a kind of node")
	}
	gpu := spec.GetResourceRequirements().GetGpu()
	if gpu == nil {
		return nil
	}
	count := uint32(1)
	if gpu.Count != nil {
		count = gpu.GetCount()
	}
	if count == 0 || count > maxGPUs {
		return unusable("RESOURCES_INVALID", "spec.resource_requirements.gpu.count must be 1 to %d", maxGPUs)
	}
	return ask(&p.resources.Limits, resourceGPU, "gpu", strconv.FormatUint(uint64(count), 10))
}

func quantityText(v *structpb.Value) (string, bool) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return k.StringValue, true
	case *structpb.Value_NumberValue:
		return strconv.FormatFloat(k.NumberValue, 'f', -1, 64), true
	}
	return "", false
}

func ask(list *corev1.ResourceList, name corev1.ResourceName, field, text string) error {
	q, err := quantity("spec.template.resources."+field, text)
	if err != nil {
		return err
	}
	if *list == nil {
		*list = corev1.ResourceList{}
	}
	(*list)[name] = q
	return nil
}

// quantity reads an amount in Kubernetes' notation.
func quantity(field, text string) (resource.Quantity, error) {
	if len(text) > 32 {
		return resource.Quantity{}, unusable("RESOURCES_INVALID", "%s: the amount is too long", field)
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Sign() < 0 {
		return resource.Quantity{}, unusable("RESOURCES_INVALID", "%s: %q is no amount", field, text).
			WithNext("write an amount such as \"500m\", \"2\" or \"512Mi\"")
	}
	return q, nil
}
