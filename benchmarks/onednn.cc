// Convolutions and their gradients by oneDNN, as calls from XLA's CPU programs.
//
// Arrays are float32 in the orders NHWC and HWIO. oneDNN chooses the order of
// its own copy of the kernel; images are used as they are.

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>

#include "oneapi/dnnl/dnnl.hpp"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Buffer = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;
using dnnl::memory;
using Tag = memory::format_tag;

namespace {

// Batch, height, width, input and output channels, kernel side, stride.
using Sizes = std::array<int64_t, 7>;

struct Descriptions {
  memory::desc images, kernel, outputs, any_kernel;
  memory::dims strides, low, high;
};

struct Prepared {
  dnnl::primitive primitive;
  memory::desc kernel, own_kernel, scratch;
};

dnnl::engine& Engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

Descriptions Describe(const Sizes& s) {
  auto [batch, height, width, in, out, side, stride] = s;
  const int64_t rows = (height - 1) / stride + 1;
  const int64_t columns = (width - 1) / stride + 1;
  auto described = [](memory::dims dims, Tag tag) {
    return memory::desc(dims, memory::data_type::f32, tag);
  };
  // The pixels that no kernel covers count as negative padding.
  const int64_t half = side / 2;
  return {described({batch, in, height, width}, Tag::nhwc),
          described({out, in, side, side}, Tag::hwio),
          described({batch, out, rows, columns}, Tag::nhwc),
          described({out, in, side, side}, Tag::any),
          {stride, stride},
          {half, half},
          {half - (height - 1) % stride, half - (width - 1) % stride}};
}

Prepared Prepare(int kind, const Sizes& s) {
  const Descriptions d = Describe(s);
  const auto direct = dnnl::algorithm::convolution_direct;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  dnnl::convolution_forward::primitive_desc forward(
      Engine(), dnnl::prop_kind::forward_training, direct, d.images,
      d.any_kernel, d.outputs, d.strides, d.low, d.high, attributes);
  if (kind == 0) {
    return {dnnl::convolution_forward(forward), d.kernel,
            forward.weights_desc(), forward.scratchpad_desc()};
  }
  if (kind == 1) {
    dnnl::convolution_backward_data::primitive_desc backward(
        Engine(), direct, d.images, d.any_kernel, d.outputs, d.strides, d.low,
        d.high, forward, attributes);
    return {dnnl::convolution_backward_data(backward), d.kernel,
            backward.weights_desc(), backward.scratchpad_desc()};
  }
  dnnl::convolution_backward_weights::primitive_desc backward(
      Engine(), direct, d.images, d.any_kernel, d.outputs, d.strides, d.low,
      d.high, forward, attributes);
  return {dnnl::convolution_backward_weights(backward), d.kernel,
          backward.diff_weights_desc(), backward.scratchpad_desc()};
}

const Prepared& Find(int kind, const Sizes& s) {
  static std::mutex mutex;
  static std::map<std::pair<int, Sizes>, Prepared> found;
  std::lock_guard<std::mutex> lock(mutex);
  auto place = found.find({kind, s});
  if (place == found.end()) {
    place = found.emplace(std::make_pair(kind, s), Prepare(kind, s)).first;
  }
  return place->second;
}

ffi::Error Run(int kind, const Sizes& s, float* images, float* kernel,
               float* outputs) {
  try {
    const Descriptions d = Describe(s);
    const Prepared& p = Find(kind, s);
    dnnl::stream stream(Engine());
    memory given(p.kernel, Engine(), kernel);
    const bool copies = p.own_kernel != p.kernel;
    memory own = copies ? memory(p.own_kernel, Engine()) : given;
    memory of_images(d.images, Engine(), images);
    memory of_outputs(d.outputs, Engine(), outputs);
    memory scratch(p.scratch, Engine());
    std::unordered_map<int, memory> all = {{DNNL_ARG_SCRATCHPAD, scratch}};
    if (copies && kind != 2) dnnl::reorder(given, own).execute(stream, given, own);
    all.emplace(kind == 1 ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, of_images);
    all.emplace(kind == 2 ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, own);
    all.emplace(kind == 0 ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, of_outputs);
    p.primitive.execute(stream, all);
    if (copies && kind == 2) dnnl::reorder(own, given).execute(stream, own, given);
    stream.wait();
  } catch (const dnnl::error& e) {
    return ffi::Error::Internal(e.what());
  }
  return ffi::Error::Success();
}

Sizes SizesOf(const Buffer::Dimensions& images,
              const Buffer::Dimensions& kernel, int64_t stride) {
  return {images[0], images[1], images[2], images[3], kernel[3], kernel[0],
          stride};
}

float* Data(const Buffer& buffer) { return buffer.typed_data(); }

ffi::Error Outputs(int64_t stride, Buffer images, Buffer kernel,
                   Result outputs) {
  return Run(0, SizesOf(images.dimensions(), kernel.dimensions(), stride),
             Data(images), Data(kernel), outputs->typed_data());
}

ffi::Error ImageGrads(int64_t stride, Buffer outputs, Buffer kernel,
                      Result images) {
  return Run(1, SizesOf(images->dimensions(), kernel.dimensions(), stride),
             images->typed_data(), Data(kernel), Data(outputs));
}

ffi::Error KernelGrads(int64_t stride, Buffer images, Buffer outputs,
                       Result kernel) {
  return Run(2, SizesOf(images.dimensions(), kernel->dimensions(), stride),
             Data(images), kernel->typed_data(), Data(outputs));
}

}  // namespace

#define HANDLER(name, function)                              \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function,              \
                                ffi::Ffi::Bind()             \
                                    .Attr<int64_t>("stride") \
                                    .Arg<Buffer>()           \
                                    .Arg<Buffer>()           \
                                    .Ret<Buffer>())

HANDLER(OnednnOutputs, Outputs);
HANDLER(OnednnImageGrads, ImageGrads);
HANDLER(OnednnKernelGrads, KernelGrads);
