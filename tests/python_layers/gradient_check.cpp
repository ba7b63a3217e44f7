// Drives Caffe's own GradientChecker over a Python layer, most often a loss.
//
//   gradient_check LAYER_PROTOTXT BOTTOMS STEP THRESHOLD [UNCHECKED [CHECKED_BOTTOMS]]
//
// LAYER_PROTOTXT: file with one LayerParameter.  BOTTOMS: binary BlobProtoVector.  Of a layer with
// a loss_weight the first one is checked, the features, not the labels; of other layers all are.
// Exit code 0 when every component agrees within THRESHOLD (GradientChecker's relative error) for
// central differences of STEP.  GradientChecker checks the layer's own blobs too; components of
// absolute value UNCHECKED, there and in the features, it leaves out; "-": none.  CHECKED_BOTTOMS:
// number of first bottoms of a loss that are checked, 1 by default.

#include <cstdlib>
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "caffe/caffe.hpp"
#include "caffe/layer_factory.hpp"
#include "caffe/test/test_gradient_check_util.hpp"
#include "caffe/util/io.hpp"

namespace {

std::vector<std::string> arguments;

TEST(PythonLayer, GradientChecker) {
  caffe::LayerParameter layer_param;
  ASSERT_TRUE(caffe::ReadProtoFromTextFile(arguments[0], &layer_param));
  caffe::BlobProtoVector protos;
  ASSERT_TRUE(caffe::ReadProtoFromBinaryFile(arguments[1], &protos));

  caffe::Blob<float> loss;
  std::vector<boost::shared_ptr<caffe::Blob<float> > > blobs;
  std::vector<caffe::Blob<float>*> bottom, top(1, &loss);
  for (int i = 0; i < protos.blobs_size(); ++i) {
    blobs.push_back(boost::shared_ptr<caffe::Blob<float> >(new caffe::Blob<float>()));
    blobs.back()->FromProto(protos.blobs(i));
    bottom.push_back(blobs.back().get());
  }
  boost::shared_ptr<caffe::Layer<float> > layer =
      caffe::LayerRegistry<float>::CreateLayer(layer_param);
  const bool some_unchecked = arguments.size() > 4 && arguments[4] != "-";
  caffe::GradientChecker<float> checker(std::atof(arguments[2].c_str()),
                                        std::atof(arguments[3].c_str()), 1701,
                                        some_unchecked ? std::atof(arguments[4].c_str()) : 0,
                                        some_unchecked ? 1e-4 : -1);
  if (!layer_param.loss_weight_size()) {
    checker.CheckGradientExhaustive(layer.get(), bottom, top, -1);
    return;
  }
  const int checked = arguments.size() > 5 ? std::atoi(arguments[5].c_str()) : 1;
  for (int i = 0; i < checked; ++i) {
    checker.CheckGradientExhaustive(layer.get(), bottom, top, i);
  }
}

}  // namespace

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  CHECK(argc >= 5 && argc <= 7)
      << "LAYER_PROTOTXT BOTTOMS STEP THRESHOLD [UNCHECKED [CHECKED_BOTTOMS]]";
  arguments.assign(argv + 1, argv + argc);
  return RUN_ALL_TESTS();
}
