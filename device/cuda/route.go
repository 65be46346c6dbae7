package cuda

import (
	"fmt"

	"latent/device"
	"latent/device/cuda/driver"
)

type routerParams struct {
	IDs, Weights, Logits, Bias driver.Ptr
	Rows, Experts              int32
	Softmax, Limit             int32
	Groups, Keep               int32
	Choose, Normalize          int32
	Scale                      float32
	_                          int32
}

// maxRouted is how many one warp holds, see kernels/route.cu.
const maxRouted = 512

// Route implements device.Device for up to maxRouted experts.
func (d *Device) Route(ids, weights, logits, bias device.Tensor, router device.Router) {
	rows, experts := logits.Rows, logits.Cols
	want("Route", "logits", logits, device.F32, rows, experts)
	want("Route", "ids", ids, device.I32, rows, router.Choose)
	want("Route", "weights", weights, device.F32, rows, router.Choose)
	if router.Limit != device.NoGroups {
		if g := router.Groups; g < 1 || experts%g != 0 || router.KeepGroups < 1 || router.KeepGroups > g {
			panic(fmt.Sprintf("cuda: Route: %d of %d groups for %d experts", router.KeepGroups, g, experts))
		}
	}
	if router.Choose < 1 || router.Choose > experts || experts > maxRouted {
		panic(fmt.Sprintf("cuda: Route: choose %d of %d experts; the kernel takes up to %d", router.Choose, experts, maxRouted))
	}
	p := routerParams{
		IDs: ptr(ids), Weights: ptr(weights), Logits: ptr(logits), Rows: int32(rows), Experts: int32(experts),
		Limit: int32(router.Limit), Groups: int32(router.Groups), Keep: int32(router.KeepGroups),
		Choose: int32(router.Choose), Scale: router.Scale,
	}
	if router.Score == device.Softmax {
		p.Softmax = 1
	}
	if router.Normalize {
		p.Normalize = 1
	}
	if bias.Mem != nil {
		want("Route", "bias", bias, device.F32, 1, experts)
		p.Bias = ptr(bias)
	}
	const warps = 4 // ROUTE_WARPS
	launch(d, d.kernel("route", "route"), grid1(divUp(rows, warps)), block1(32*warps), 0, &p)
}
